"""Workers do every attempt once between them, fail what fails, and stop when told to."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobstate_client import (
    AsyncClient,
    AsyncWorker,
    AttemptSuperseded,
    Client,
    Event,
    EventType,
    NewJob,
    NonRetryable,
    Run,
    State,
    Worker,
)
from jobstate_client.core import backlog
from jobstate_client.testing import JobstateServer

from .support import PATIENCE_S, in_thread

WORKERS = 10
ATTEMPTS = 200


@contextmanager
def working(worker: Worker) -> Iterator[None]:
    """A worker at work, stopped in the end."""
    with in_thread(worker.run):
        try:
            yield
        finally:
            worker.stop()


@asynccontextmanager
async def working_async(worker: AsyncWorker) -> Any:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        async with asyncio.timeout(PATIENCE_S):
            await task


def events_until(client: Client, count: int, *types: EventType) -> list[Event]:
    """The first ``count`` events of these types that the log ever holds."""
    found: list[Event] = []
    with client.watch(start="earliest", types=types) as watch:
        while len(found) < count:
            found.append(next(watch))
    return found


def fill(client: Client, server: JobstateServer) -> None:
    """As many attempts as are to be done: jobs before and after the workers come, and resumed ones."""
    quarter = ATTEMPTS // 4
    client.create_many(NewJob("work", id=f"later-{number}") for number in range(quarter))
    for number in range(quarter):
        client.retry(f"resting-{number}", immediately=True)
    server.advance(10.0)


def prepare(client: Client) -> None:
    quarter = ATTEMPTS // 4
    client.create_many(NewJob("work", id=f"early-{number}") for number in range(quarter))
    client.create_many(NewJob("resting", id=f"resting-{number}") for number in range(quarter))
    client.create_many(NewJob("work", id=f"waiting-{number}") for number in range(quarter))
    for number in range(quarter):
        client.fail(client.start(f"resting-{number}"))
        client.fail(client.start(f"waiting-{number}"), retry_delay=10.0)


def assert_each_attempt_was_done_once(client: Client, done: list[tuple[str, int]]) -> None:
    times = collections.Counter(done)

    assert len(times) == ATTEMPTS
    assert set(times.values()) == {1}
    assert {job.state for job in client.list(page_size=1_000)} == {State.COMPLETED}


def test_ten_workers_do_each_attempt_once(client: Client, server: JobstateServer) -> None:
    done: list[tuple[str, int]] = []

    def work(run: Run) -> dict[str, Any]:
        done.append((run.id, run.attempt))
        run.progress(50)
        return {"by": run.job.worker}

    prepare(client)
    with ExitStack() as stack:
        for number in range(WORKERS):
            worker = client.worker(work, job_types=["work", "resting"], worker=f"worker-{number}", concurrency=2)
            stack.enter_context(working(worker))
        fill(client, server)
        events_until(client, ATTEMPTS, EventType.COMPLETED)

    assert_each_attempt_was_done_once(client, done)
    assert all(job.result == {"by": job.worker} for job in client.list(page_size=1_000))


async def test_ten_asyncio_workers_do_each_attempt_once(
    async_client: AsyncClient, client: Client, server: JobstateServer
) -> None:
    done: list[tuple[str, int]] = []

    async def work(run: Run) -> None:
        done.append((run.id, run.attempt))
        await asyncio.sleep(0)
        run.progress(50)

    await asyncio.to_thread(prepare, client)
    async with AsyncExitStack() as stack:
        for number in range(WORKERS):
            worker = async_client.worker(work, job_types=["work", "resting"], worker=f"worker-{number}", concurrency=2)
            await stack.enter_async_context(working_async(worker))
        await asyncio.to_thread(fill, client, server)
        await asyncio.to_thread(events_until, client, ATTEMPTS, EventType.COMPLETED)

    await asyncio.to_thread(assert_each_attempt_was_done_once, client, done)


def test_workers_go_on_over_restarts_of_the_server(
    client: Client, server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobstate_server.watch.stream.RECONNECT_SPREAD", 1)
    done: list[tuple[str, int]] = []
    patient = server.client(wait_for_ready=True)
    with working(client.worker(lambda run: done.append((run.id, run.attempt)), job_types=["work"], concurrency=3)):
        for turn in range(3):
            patient.create_many(NewJob("work", id=f"job-{turn}-{number}") for number in range(10))
            server.restart()
        events_until(patient, 30, EventType.COMPLETED)

    assert sorted(done) == sorted((f"job-{turn}-{number}", 1) for turn in range(3) for number in range(10))


def test_a_handler_that_fails_fails_the_attempt_and_the_worker_goes_on(
    client: Client, server: JobstateServer, caplog: pytest.LogCaptureFixture
) -> None:
    def work(run: Run) -> None:
        if run.id == "hopeless":
            raise NonRetryable("no such file", code="NO_FILE")
        if run.attempt == 1:
            sys.exit("not yet")

    with working(client.worker(work, job_types=["work"])):
        client.create("work", id="hopeless")
        client.create("work", id="second")
        events_until(client, 2, EventType.FAILED)
        server.advance(1.0)
        events_until(client, 1, EventType.COMPLETED)

    hopeless, second = client.get("hopeless"), client.get("second")
    assert (hopeless.state, second.state, second.attempt) == (State.PERMANENTLY_FAILED, State.COMPLETED, 2)
    assert hopeless.last_error is not None
    assert second.last_error is not None
    assert (hopeless.last_error.code, second.last_error.code) == ("NO_FILE", "SystemExit")
    assert "attempt 1 of job hopeless failed" in caplog.text


def test_a_worker_that_is_stopped_ends_what_it_does_and_begins_nothing(client: Client) -> None:
    at_it, go_on = threading.Event(), threading.Event()

    def work(run: Run) -> None:
        at_it.set()
        worker.stop()
        assert go_on.wait(PATIENCE_S)

    client.create_many(NewJob("work", id=f"job-{number}") for number in range(5))
    worker = client.worker(work, job_types=["work"])
    with in_thread(worker.run) as ended:
        assert at_it.wait(PATIENCE_S)
        go_on.set()
        ended()

    assert sorted(job.state for job in client.list()) == [State.COMPLETED, *[State.QUEUED] * 4]


def test_a_worker_stopped_before_it_runs_returns_at_once(client: Client) -> None:
    worker = client.worker(lambda run: None, job_types=["work"])
    worker.stop()

    worker.run()


async def test_an_asyncio_worker_that_is_cancelled_fails_what_it_does(
    async_client: AsyncClient, client: Client
) -> None:
    at_it = asyncio.Event()

    async def work(run: Run) -> None:
        at_it.set()
        await asyncio.Event().wait()

    await async_client.create("work", id="first")
    task = asyncio.create_task(async_client.worker(work, job_types=["work"]).run())
    async with asyncio.timeout(PATIENCE_S):
        await at_it.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    ended = await async_client.get("first")
    assert ended.last_error is not None
    assert ended.last_error.code == "CancelledError"


def test_more_jobs_than_are_held_are_listed_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "CANDIDATES_MAX", 3)
    client.create_many(NewJob("work", id=f"job-{number}") for number in range(20))

    with working(client.worker(lambda run: None, job_types=["work"], concurrency=2)):
        events_until(client, 20, EventType.COMPLETED)

    assert {job.state for job in client.list()} == {State.COMPLETED}


def test_a_worker_without_hands_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        client.worker(lambda run: None, job_types=["work"], concurrency=0)


KILLED = """
import sys
from jobstate_client import Client

def work(run):
    run.progress(10, "at it")
    print(run.attempt, flush=True)
    sys.stdin.read()

with Client(sys.argv[1]) as client:
    client.worker(work, job_types=["clean_transcript"], worker="killed").run()
"""


def test_the_job_of_a_killed_worker_is_done_by_another_and_its_late_result_refused(
    client: Client, server: JobstateServer, tmp_path: Path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(KILLED)
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(script), server.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=paths,
    ) as process:
        client.create("clean_transcript", id="first")
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        abandoned = client.get("first")
        process.send_signal(signal.SIGKILL)

    at_it, go_on = threading.Event(), threading.Event()

    def work(run: Run) -> dict[str, Any]:
        at_it.set()
        assert go_on.wait(PATIENCE_S)
        return {"by": "another"}

    with working(client.worker(work, job_types=["clean_transcript"], worker="another")):
        server.advance(60.0)
        server.advance(1.0)
        assert at_it.wait(PATIENCE_S)
        with pytest.raises(AttemptSuperseded) as refused:
            client.complete(abandoned, result={"by": "killed"})
        go_on.set()
        ended = client.wait("first", timeout=PATIENCE_S)

    first, second = client.attempts("first")
    assert (abandoned.worker, refused.value.attempt, refused.value.current_attempt) == ("killed", 1, 2)
    assert (ended.state, ended.worker, ended.result) == (State.COMPLETED, "another", {"by": "another"})
    assert first.error is not None
    assert (first.error.code, first.worker, second.worker) == ("ATTEMPT_TIMEOUT", "killed", "another")
