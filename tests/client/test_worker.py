"""Workers do every attempt once between them, fail what fails, and stop when asked to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobstate_client import (
    AsyncClient,
    Client,
    Event,
    EventType,
    NewJob,
    NonRetryable,
    Run,
    State,
    Worker,
)
from jobstate_client.core import acquiring
from jobstate_client.testing import JobstateServer

from .support import PATIENCE_S, in_thread


@contextmanager
def working(worker: Worker) -> Iterator[None]:
    """A worker at work, stopped in the end."""
    with in_thread(worker.run):
        try:
            yield
        finally:
            worker.stop()


def events_until(client: Client, count: int, *types: EventType) -> list[Event]:
    """The first ``count`` events of these types that the log ever holds."""
    found: list[Event] = []
    with client.watch(start="earliest", types=types) as watch:
        while len(found) < count:
            found.append(next(watch))
    return found


def test_workers_continue_over_restarts_of_the_server(
    client: Client, server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobstate_server.watch.session.RECONNECT_SPREAD", 1)
    done: list[tuple[str, int]] = []
    patient = server.client(wait_for_ready=True)
    with working(client.worker(lambda run: done.append((run.id, run.attempt)), job_types=["work"], concurrency=3)):
        for turn in range(3):
            patient.create_many(NewJob("work", id=f"job-{turn}-{number}") for number in range(10))
            server.restart()
        events_until(patient, 30, EventType.COMPLETED)

    assert sorted(done) == sorted((f"job-{turn}-{number}", 1) for turn in range(3) for number in range(10))


def test_a_handler_that_fails_fails_the_attempt_and_the_worker_continues(
    client: Client, server: JobstateServer, caplog: pytest.LogCaptureFixture
) -> None:
    def work(run: Run) -> None:
        if run.id == "hopeless":
            raise NonRetryable("no such file", code="NO_FILE")
        if run.attempt == 1:
            raise OSError("not yet")

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
    assert (hopeless.last_error.code, second.last_error.code) == ("NO_FILE", "OSError")
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


def test_more_jobs_than_can_be_acquired_at_once_are_acquired_in_turns(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquiring, "ACQUIRED_MAX", 3)
    client.create_many(NewJob("work", id=f"job-{number}") for number in range(20))

    with working(client.worker(lambda run: None, job_types=["work"], concurrency=7)):
        events_until(client, 20, EventType.COMPLETED)

    assert {job.state for job in client.list()} == {State.COMPLETED}


def test_a_worker_without_hands_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        client.worker(lambda run: None, job_types=["work"], concurrency=0)
