"""Workers lose no job that they were handed out, give back what they do not do, and hear of what is cancelled."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobstate_client import (
    AsyncClient,
    AttemptOutcome,
    Client,
    EventType,
    Job,
    JobCancelled,
    NewJob,
    Release,
    Run,
    State,
    UnknownJobType,
    Unreachable,
)
from jobstate_client.core import acquiring, calls, heartbeats
from jobstate_client.core.run import RunOptions
from jobstate_client.testing import JobstateServer, serving

from .support import PATIENCE_S, Either, in_thread, raised, until


@asynccontextmanager
async def at_work(worker: Any) -> AsyncIterator[None]:
    """A worker of either client at work. It is stopped in the end, unless it has stopped by then."""
    if isinstance(worker._client, Client):
        with in_thread(worker.run) as ended:
            yield
            worker.stop()
            await asyncio.to_thread(ended)
        return
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE_S):
        yield
        worker.stop()
        await running


def handled(client: Any, work: Callable[[Run], Any]) -> Callable[[Run], Any]:
    """A handler for a worker of this client."""
    if isinstance(client, Client):
        return work

    async def handler(run: Run) -> Any:
        return await asyncio.to_thread(work, run)

    return handler


def idle(client: Any, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the hands of a worker from taking a job until it stops."""

    def wait() -> None:
        until(lambda: worker._stopping)

    async def wait_async() -> None:
        await worker._stopping.wait()

    monkeypatch.setattr(worker, "_next", wait if isinstance(client, Client) else wait_async)


def losing_answers(client: Any, worker: Any, monkeypatch: pytest.MonkeyPatch, then: Callable[[], Any]) -> None:
    """Lose the answer of the first Acquire of a worker that got something, and do this instead."""
    ask = worker._acquirer._ask
    lost: list[Any] = []

    def lose(jobs: Any) -> Any:
        if lost or not jobs:
            return jobs
        lost.append(jobs)
        return then()

    async def ask_async(call: Any) -> Any:
        return lose(await ask(call))

    losing = (lambda call: lose(ask(call))) if isinstance(client, Client) else ask_async
    monkeypatch.setattr(worker._acquirer, "_ask", losing)


def assert_given_back(client: Client, job_id: str) -> None:
    job, (attempt,) = client.get(job_id), client.attempts(job_id)
    assert (job.state, job.attempt, job.claimed, job.retry_count) == (State.PROCESSING, 2, False, 0)
    assert attempt.outcome is AttemptOutcome.RELEASED


async def test_a_worker_that_stops_gives_back_what_it_has_not_begun(
    either: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_many(NewJob("work", id=f"job-{number}") for number in range(3))
    worker = either.worker(handled(either, lambda run: pytest.fail("it began")), job_types=["work"], concurrency=3)
    idle(either, worker, monkeypatch)

    async with at_work(worker):
        await asyncio.to_thread(until, lambda: len(worker._jobs) == 3)

    for number in range(3):
        assert_given_back(client, f"job-{number}")
    released = list(client.watch(types=[EventType.RELEASED], start="earliest", follow=False))
    assert {event.detail.reason for event in released} == {"the worker stopped before it began"}


async def test_what_a_worker_was_handed_out_while_it_stopped_is_given_back(
    either: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = either.worker(handled(either, lambda run: pytest.fail("it began")), job_types=["work"], concurrency=2)
    # The call is given up, and its answer comes too late.
    losing_answers(either, worker, monkeypatch, worker.stop)

    async with at_work(worker):
        client.create("work", id="first")
        await asyncio.to_thread(until, lambda: client.get("first").attempt == 2)

    assert_given_back(client, "first")


@pytest.mark.parametrize(("waited_s", "longest_s"), [(0.0, 0.1), (60.0, 3.2)], ids=["it waited", "it failed at once"])
async def test_a_worker_asks_again_soon_when_something_ends_calls_that_wait(
    either: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, waited_s: float, longest_s: float
) -> None:
    """A proxy with a short limit. Otherwise the pauses would grow to ten seconds, in which nobody asks."""
    monkeypatch.setattr(acquiring, "WAITED_S", waited_s)
    worker, asked = either.worker(handled(either, print), job_types=["work"]), list[object]()

    def ask(call: object) -> None:
        asked.append(call)
        if len(asked) == 6:
            worker.stop()
        raise Unreachable("cut")

    async def ask_async(call: object) -> None:
        ask(call)

    pause_s, steps = calls.Backoff.next, list[float]()

    def pause(backoff: Any, at_least_s: float) -> float:
        steps.append(backoff._next_s)
        pause_s(backoff, at_least_s)
        return 0.0

    monkeypatch.setattr(worker._acquirer, "_ask", ask if isinstance(either, Client) else ask_async)
    monkeypatch.setattr(calls.Backoff, "next", pause)
    async with at_work(worker):
        await asyncio.to_thread(until, lambda: len(asked) == 6)

    assert max(steps) == longest_s


async def test_jobs_whose_answer_was_lost_are_had_by_repeating_the_call(
    either: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> Any:
        raise Unreachable("the connection was lost")

    done: list[tuple[str, int]] = []
    client.create_many(NewJob("work", id=f"job-{number}") for number in range(3))
    worker = either.worker(
        handled(either, lambda run: done.append((run.id, run.attempt))), job_types=["work"], concurrency=2
    )
    losing_answers(either, worker, monkeypatch, lost)

    async with at_work(worker):
        await asyncio.to_thread(until, lambda: client.stats().total.completed == 3)

    assert sorted(done) == [("job-0", 1), ("job-1", 1), ("job-2", 1)]


async def test_a_worker_takes_no_more_jobs_than_it_has_free_hands(either: Any, client: Client) -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def work(run: Run) -> None:
        begun.release()
        assert go_on.wait(PATIENCE_S)

    client.create_many(NewJob("work") for _ in range(5))
    worker = either.worker(handled(either, work), job_types=["work"], concurrency=2)
    async with at_work(worker):
        for _ in range(2):
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_S)
        client.create("work", id="urgent", priority="URGENT")
        stats = client.stats().total
        go_on.set()
        await asyncio.to_thread(until, lambda: client.stats().total.completed == 6)
    completed = list(client.watch(types=[EventType.COMPLETED], start="earliest", follow=False))

    assert stats.running == 2
    # It overtook what nobody had begun.
    assert "urgent" in {event.job.id for event in completed[:4]}


async def test_a_handler_that_raises_release_gives_its_attempt_back(
    either: Any, client: Client, server: JobstateServer, caplog: pytest.LogCaptureFixture
) -> None:
    def work(run: Run) -> dict[str, int]:
        if run.attempt == 1:
            run.usage(tokens=7)
            raise Release(delay=20, reason="429")
        return {"attempt": run.attempt}

    def released_once() -> bool:
        return client.get("first").state is State.RETRYING

    client.create("work", id="first", max_retries=0)
    with caplog.at_level(logging.INFO, "jobstate_client"):
        async with at_work(either.worker(handled(either, work), job_types=["work"])):
            # Also, no call is under way while the time jumps: the server would take that for a pause of its own.
            await asyncio.to_thread(until, lambda: client.explain("first").waiting_acquires == 1 and released_once())
            released = client.get("first")
            server.advance(20)
            ended = await asyncio.to_thread(client.wait, "first", PATIENCE_S)
    attempt, _ = client.attempts("first")

    assert released.next_retry_time == server.now
    assert (ended.result, ended.retry_count, ended.attempt) == ({"attempt": 2}, 0, 2)
    assert (attempt.outcome, attempt.tokens) == (AttemptOutcome.RELEASED, 7)
    assert re.search(r"attempt 1 of job first was released after [\d.]+ s: 429", caplog.text)
    assert "failed" not in caplog.text


async def test_a_run_whose_block_raises_release_gives_its_attempt_back(either: Any, client: Client) -> None:
    async def work() -> None:
        async with Either(either.run(NewJob("work", id="first", max_retries=0))):
            raise Release(delay=5)

    with pytest.raises(Release):
        await work()

    job = client.get("first")
    assert (job.state, job.retry_count, job.last_error) == (State.RETRYING, 0, None)


async def test_a_release_beyond_the_limit_fails_the_attempt(
    either: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobstate_server.domain.rules.release.RELEASES_MAX", 3)

    def work(run: Run) -> None:
        raise Release

    client.create("work", id="first", max_retries=0)
    async with at_work(either.worker(handled(either, work), job_types=["work"])):
        ended = await asyncio.to_thread(client.wait, "first", PATIENCE_S)

    assert ended.last_error is not None
    assert (ended.state, ended.last_error.code) == (State.PERMANENTLY_FAILED, "RELEASE_LIMIT_REACHED")
    assert [each.outcome for each in client.attempts("first")] == [AttemptOutcome.RELEASED] * 3 + [
        AttemptOutcome.FAILED
    ]


def test_a_release_that_the_server_would_refuse_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="delay must be from 0 to 7 days"):
        Release(delay=8 * 24 * 3600)
    with pytest.raises(TypeError, match="delay must be a timedelta or a number of seconds"):
        Release(delay="20s")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reason must be a text, not int"):
        Release(reason=429)  # type: ignore[arg-type]


async def test_the_reason_of_a_release_is_cut_and_cleaned_so_that_it_costs_no_retry(
    either: Any, client: Client
) -> None:
    def work(run: Run) -> None:
        raise Release(delay=20, reason="\0" + "ü" * 5_000)

    client.create("work", id="first")
    async with at_work(either.worker(handled(either, work), job_types=["work"])):
        await asyncio.to_thread(until, lambda: client.get("first").state is not State.QUEUED)
        await asyncio.to_thread(until, lambda: client.get("first").state is not State.PROCESSING)
    (event,) = client.watch(types=[EventType.RELEASED], start="earliest", follow=False)

    assert event.job.retry_count == 0
    assert event.detail.reason == "\ufffd" + "ü" * 2_046


def test_a_run_of_a_cancelled_job_is_told_without_reporting_anything(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[bool] = []
    begun = threading.Event()

    def work(run: Run) -> None:
        if run.id == "second":
            return
        begun.set()
        told.append(run.cancelled.wait(PATIENCE_S))
        run.usage(tokens=9)

    client.create("work", id="first")
    worker = client.worker(work, job_types=["work"], heartbeat=None)
    with in_thread(worker.run):
        assert begun.wait(PATIENCE_S)
        client.cancel("first")
        client.create("work", id="second")
        client.wait("second", timeout=PATIENCE_S)
        worker.stop()

    assert told == [True]
    # What it used is counted all the same.
    assert client.get("first").estimated_tokens == 9
    assert "failed" not in caplog.text


async def test_the_task_of_a_cancelled_job_is_cancelled(
    async_client: AsyncClient, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    begun, told = asyncio.Event(), list[bool]()

    async def work(run: Run) -> None:
        if run.id == "second":
            return
        run.usage(tokens=5)
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append(run.cancelled.is_set())
            with pytest.raises(JobCancelled):
                run.check()
            raise

    client.create("work", id="first")
    async with at_work(async_client.worker(work, job_types=["work"], heartbeat=None)):
        await begun.wait()
        await async_client.cancel("first")
        await async_client.create("work", id="second")
        await async_client.wait("second")

    assert told == [True]
    assert (await async_client.get("first")).estimated_tokens == 5
    assert "failed" not in caplog.text


async def test_a_job_that_was_cancelled_before_its_run_began_is_not_begun(
    either: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create("work", id="first")
    begun: list[str] = []
    worker = either.worker(handled(either, lambda run: begun.append(run.id)), job_types=["work"])
    take, told = worker._next, threading.Event()

    async def late_async() -> Any:
        job = await take()
        if job is not None:
            await asyncio.to_thread(client.cancel, "first")
            await asyncio.to_thread(until, lambda: "first" in worker._cancellations._versions)
            told.set()
        return job

    def late_sync() -> Any:
        job = take()
        if job is not None:
            client.cancel("first")
            until(lambda: "first" in worker._cancellations._versions)
            told.set()
        return job

    monkeypatch.setattr(worker, "_next", late_sync if isinstance(either, Client) else late_async)
    async with at_work(worker):
        assert await asyncio.to_thread(told.wait, PATIENCE_S)
        await asyncio.to_thread(until, lambda: not worker._busy)

    assert begun == []
    assert client.get("first").state is State.CANCELLED
    assert client.get("first").last_error is None


def test_only_so_many_cancelled_jobs_are_remembered(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquiring, "CANCELLATIONS_MAX", 2)
    jobs = [client.create("work") for _ in range(3)]
    known = acquiring.Cancellations()
    for job in jobs:
        known.add(client.cancel(job))

    assert [known.of(job) is not None for job in jobs] == [False, True, True]


def test_a_new_job_with_the_id_of_a_cancelled_one_is_not_taken_for_it(client: Client, server: JobstateServer) -> None:
    client.create("work", id="first")
    known = acquiring.Cancellations()
    known.add(client.cancel("first"))
    server.advance(10)
    client.cleanup(older_than=0, force=True)
    client.create("work", id="first")
    (again,) = client.acquire(["work"])

    assert known.of(again) is None


async def test_a_worker_says_that_an_attempt_has_completed_though_a_report_was_refused(
    either: Any, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    large = "x" * 40_000
    client.create("work", id="first", metadata={"text": large})
    async with at_work(either.worker(handled(either, lambda run: run.progress(5, more=large)), job_types=["work"])):
        ended = await asyncio.to_thread(client.wait, "first", PATIENCE_S)
        await asyncio.to_thread(until, lambda: "job first" in caplog.text)

    assert ended.state is State.COMPLETED
    assert "attempt 1 of job first completed after " in caplog.text
    assert "but a report was refused: metadata: would have" in caplog.text


async def test_a_worker_of_a_type_that_the_server_does_not_take_ends_with_that_error() -> None:
    with serving(job_types={"work": {}}, strict_job_types=True) as server:
        worker = server.client().worker(print, job_types=["unknown"])
        error = await asyncio.to_thread(raised, UnknownJobType, worker.run)
        async with server.async_client() as async_client:
            with pytest.raises(UnknownJobType):
                await async_client.worker(print, job_types=["unknown"]).run()  # type: ignore[arg-type]

    assert error.job_type == "unknown"


@pytest.mark.parametrize(
    ("heartbeat", "lease", "interval_s"), [("auto", 8, 2.0), (1, 8, 1.0), (7_200, 3_600, 900.0), (None, 8, None)]
)
async def test_heartbeats_come_at_least_four_times_within_a_lease(
    either: Any, client: Client, heartbeat: Any, lease: int, interval_s: float | None
) -> None:
    """Also when they are to come less often than the longest lease allows."""
    client.create("work", id="first")
    (job,) = client.acquire(["work"], lease=lease)
    interval: Any = either._heartbeat_s(job, RunOptions("me", heartbeat))

    assert (await interval if asyncio.iscoroutine(interval) else interval) == interval_s
    assert heartbeats.interval_within(3_600) == heartbeats.HEARTBEAT_S_MAX


@pytest.mark.parametrize(
    ("heartbeat", "lease_s"), [("auto", None), (None, 3_600), (1, 60), (30.0, 120), (7_200, 3_600)], ids=str
)
def test_a_worker_asks_for_a_lease_that_its_heartbeats_keep(heartbeat: Any, lease_s: float | None) -> None:
    request: Any = acquiring.acquire_call(["work"], 3, RunOptions("me", heartbeat)).request

    assert (request.lease.ToSeconds() if request.HasField("lease") else None) == lease_s
    assert (request.max_jobs, request.worker, request.wait.ToSeconds()) == (3, "me", 30)


def test_a_lease_is_kept_while_its_run_says_nothing(client: Client, server: JobstateServer) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(run: Run) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    def heard(job: Job) -> bool:
        # Each step is shorter than the lease, and all together are longer.
        server.advance(20)
        (reports,), advanced_at = client._report_sender._queue.attempts(), time.monotonic()
        until(lambda: reports.last_sent_at > advanced_at and not reports.in_flight)
        return client.get(job).attempt == 1

    job = client.create("work")
    worker = client.worker(work, job_types=["work"], heartbeat=0.1)
    with in_thread(worker.run):
        assert begun.wait(PATIENCE_S)
        assert all(heard(job) for _ in range(6))
        go_on.set()
        ended = client.wait(job, timeout=PATIENCE_S)
        worker.stop()

    assert (ended.state, ended.attempt) == (State.COMPLETED, 1)
