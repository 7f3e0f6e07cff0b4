"""A worker that is to stop within some time, and runs whose attempts are over while their work goes on."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from jobstate_client import (
    AsyncClient,
    AttemptOutcome,
    AttemptSuperseded,
    Client,
    Run,
    State,
    TransitionNotAllowed,
)

from .processes import child, server_process
from .support import PATIENCE_S, in_thread, until

HOUR_S = 3_600.0


def assert_given_back(client: Client, job_id: str, reason: str) -> None:
    """The job has its old place, and costs no retry."""
    job, (attempt,) = client.get(job_id), client.attempts(job_id)
    assert (job.state, job.attempt, job.claimed, job.retry_count) == (State.PROCESSING, 2, False, 0)
    assert attempt.outcome is AttemptOutcome.RELEASED
    (event,) = client.watch(job_ids=[job_id], types=["RELEASED"], start="earliest", follow=False)
    assert event.detail.reason == reason


def test_a_worker_gives_back_what_has_not_ended_in_time(client: Client) -> None:
    """What ends in time is completed. The handler of the other is told."""
    begun, told = threading.Barrier(3), list[Any]()
    stopping, returned = threading.Event(), threading.Event()

    def work(run: Run) -> None:
        begun.wait(PATIENCE_S)
        if run.id == "short":
            assert stopping.wait(PATIENCE_S)
            return
        assert returned.wait(PATIENCE_S)
        told.append(run.cancelled.is_set())
        with pytest.raises(AttemptSuperseded, match="was given back, for its worker stopped"):
            run.progress(50)
        told.append("refused")

    for job_id in ("long", "short"):
        client.create("work", id=job_id)
    worker = client.worker(work, job_types=["work"], concurrency=2)
    with in_thread(worker.run):
        begun.wait(PATIENCE_S)
        # A later call may give less time.
        worker.stop(within=HOUR_S)
        stopping.set()
        client.wait("short", timeout=PATIENCE_S)
        worker.stop(within=0)
    returned.set()
    until(lambda: len(told) == 2)

    assert told == [True, "refused"]
    assert client.get("short").state is State.COMPLETED
    assert_given_back(client, "long", "the worker stopped before the work had ended")


async def test_an_asyncio_worker_gives_back_what_has_not_ended_in_time(
    async_client: AsyncClient, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    told, begun = list[bool](), asyncio.Event()

    async def work(run: Run) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            told.append(run.cancelled.is_set())

    client.create("work", id="long")
    worker = async_client.worker(work, job_types=["work"])
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
        with caplog.at_level(logging.INFO, "jobstate_client"):
            worker.stop(within=HOUR_S)
            worker.stop(within=0.01)
            await running

    assert told == [True]
    assert_given_back(client, "long", "the worker stopped before the work had ended")
    assert " s: the worker stopped before the work had ended" in caplog.text
    assert "failed" not in caplog.text


async def test_a_handler_that_ends_its_work_when_it_is_cancelled_completes(
    async_client: AsyncClient, client: Client
) -> None:
    begun = asyncio.Event()

    async def work(run: Run) -> dict[str, str]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"text": "as far as it came"}
        raise AssertionError

    client.create("work", id="first")
    worker = async_client.worker(work, job_types=["work"])
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
        worker.stop(within=0)
        await running

    assert client.get("first").result == {"text": "as far as it came"}


def test_a_limit_that_is_no_span_is_refused_and_nothing_is_stopped(client: Client) -> None:
    worker = client.worker(print, job_types=["work"])

    with pytest.raises(TypeError, match="within must be a timedelta or a number of seconds"):
        worker.stop(within="20s")  # type: ignore[arg-type]

    assert not worker._stopping


SIGTERM_PROGRAM = """
import signal, sys, threading
from jobstate_client import Client

def work(run):
    print("begun", flush=True)
    threading.Event().wait()

with Client(sys.argv[1]) as client:
    worker = client.worker(work, job_types=["work"])
    signal.signal(signal.SIGTERM, lambda *_: worker.stop(within=0.1))
    worker.run()
print("ended", flush=True)
"""


def test_a_program_that_is_told_to_stop_ends_and_its_job_is_next_in_line(tmp_path: Path) -> None:
    with server_process(tmp_path / "jobs.db") as (_, address), Client(address) as client:
        client.create("work", id="first")
        with child("-c", SIGTERM_PROGRAM, address) as program:
            assert program.hear() == "begun"
            program.send(signal.SIGTERM)
            assert program.hear() == "ended"
            assert program.process.wait(PATIENCE_S) == 0

        assert_given_back(client, "first", "the worker stopped before the work had ended")


async def test_a_run_whose_attempt_is_over_is_told_by_its_next_heartbeat(
    async_client: AsyncClient, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """With asyncio its task is cancelled, as when its job is."""
    told, begun = list[bool](), asyncio.Event()

    async def work(run: Run) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append(run.cancelled.is_set())
            with pytest.raises(TransitionNotAllowed):
                run.check()
            raise

    client.create("work", id="first")
    worker = async_client.worker(work, job_types=["work"], heartbeat=0.05)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
        await async_client.fail(client.get("first"), "STALE", "its lease ended", retryable=False)
        while not told:
            await async_client.get("first")
        worker.stop()
        await running

    assert told == [True]
    assert "failed" not in caplog.text


def test_the_handler_of_a_thread_whose_attempt_is_over_is_told_by_its_next_heartbeat(client: Client) -> None:
    told, begun = list[bool](), threading.Event()

    def work(run: Run) -> None:
        begun.set()
        told.append(run.cancelled.wait(PATIENCE_S))
        run.check()

    client.create("work", id="first")
    worker = client.worker(work, job_types=["work"], heartbeat=0.05)
    with in_thread(worker.run):
        assert begun.wait(PATIENCE_S)
        client.fail(client.get("first"), "STALE", "its lease ended", retryable=False)
        until(lambda: bool(told))
        worker.stop()

    assert told == [True]
