"""The job of a worker process that was killed or stopped is retried and done by another worker process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobstate_client import AttemptSuperseded, Client, EventType, RetryDecision, State

from .processes import child, server_process
from .support import PATIENCE_S, until

WORKER = """
import sys
from jobstate_client import Client

def work(run):
    run.progress(10, "at it")
    print(run.attempt, flush=True)
    sys.stdin.readline()
    return {"by": run.job.worker}

with Client(sys.argv[1]) as client:
    client.worker(work, job_types=["timed", "silent"], worker=sys.argv[2]).run()
"""

RUN = """
import sys
from jobstate_client import Client, JobStateError

try:
    with Client(sys.argv[1]) as client, client.run("first", worker=sys.argv[2], heartbeat=None) as run:
        print(run.attempt, flush=True)
        sys.stdin.readline()
        run.result = {"by": sys.argv[2]}
except JobStateError as error:
    print(error.reason, error.attempt, error.current_attempt, flush=True)
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with server_process(tmp_path / "jobs.db") as (_, address):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def lose_attempt(client: Client, job_type: str) -> None:
    """Wait until the server has found that nothing comes of the first attempt, and has resumed the job."""
    if job_type == "silent":
        until(lambda: client.check_stale().count == 1)
    with client.watch(job_ids=["first"], types=[EventType.STARTED], start="earliest", patience=PATIENCE_S) as watch:
        resumed = next(event for event in watch if event.detail.resumed)
    assert resumed.job.attempt == 2


LOST = pytest.mark.parametrize(
    ("job_type", "code", "types"),
    [
        ("timed", "ATTEMPT_TIMEOUT", []),
        ("silent", "STALE", [EventType.STALE_DETECTED]),
    ],
    ids=["by its timeout", "by its silence"],
)


@LOST
def test_the_job_of_a_killed_process_is_done_by_another_and_the_late_result_refused(
    client: Client, address: str, job_type: str, code: str, types: list[EventType]
) -> None:
    client.create(job_type, id="first")
    with child("-c", WORKER, address, "killed") as killed:
        assert killed.hear() == "1"
        abandoned = client.get("first")
        killed.end(signal.SIGKILL)
    lose_attempt(client, job_type)

    with child("-c", WORKER, address, "another") as another:
        assert another.hear() == "2"
        with pytest.raises(AttemptSuperseded) as refused:
            client.complete(abandoned, result={"by": "killed"})
        with pytest.raises(AttemptSuperseded):
            client.progress(abandoned, 99)
        another.say("go on")
        ended = client.wait("first", timeout=PATIENCE_S)

    assert (abandoned.worker, refused.value.attempt, refused.value.current_attempt) == ("killed", 1, 2)
    assert (ended.state, ended.worker, ended.result) == (State.COMPLETED, "another", {"by": "another"})
    assert_told(client, code, types, ("killed", "another"))


@LOST
def test_a_process_that_was_held_up_learns_that_its_result_comes_too_late(
    client: Client, address: str, job_type: str, code: str, types: list[EventType]
) -> None:
    client.create(job_type, id="first")
    with child("-c", RUN, address, "held up") as held_up:
        assert held_up.hear() == "1"
        held_up.send(signal.SIGSTOP)
        lose_attempt(client, job_type)
        with child("-c", RUN, address, "another") as another:
            assert another.hear() == "2"
            held_up.send(signal.SIGCONT)
            held_up.say("go on")
            assert held_up.hear() == "ATTEMPT_SUPERSEDED 1 2"
            another.say("go on")
            ended = client.wait("first", timeout=PATIENCE_S)

    assert (ended.state, ended.result) == (State.COMPLETED, {"by": "another"})
    assert_told(client, code, types, ("held up", "another"))


def assert_told(client: Client, code: str, types: list[EventType], workers: tuple[str, str]) -> None:
    """Events and attempts tell the whole story."""
    events = list(client.watch(job_ids=["first"], start="earliest", follow=False))
    failed = next(event for event in events if event.type is EventType.FAILED)
    first, second = client.attempts("first")
    error: Any = first.error

    assert [event.type for event in events if event.type is not EventType.PROGRESS] == [
        *(EventType.QUEUED, EventType.STARTED),
        *types,
        *(EventType.FAILED, EventType.RETRYING, EventType.STARTED, EventType.CLAIMED, EventType.COMPLETED),
    ]
    assert (error.code, error.retryable, failed.detail.decision) == (code, True, RetryDecision.WILL_RETRY)
    assert (first.number, first.worker, second.number, second.worker) == (1, workers[0], 2, workers[1])
    assert second.error is None
