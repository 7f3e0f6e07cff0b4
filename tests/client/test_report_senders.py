"""The report sender survives every failure, and every run gets the outcome of its end."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import AsyncClient, Client, InvalidField, State, TransportError
from jobstate_client.core import report_queue as module
from jobstate_client.core.attempt_reports import REPORT_INTERVAL_S, AttemptReports, progress_report
from jobstate_client.core.report_queue import ReportQueue

from ..support import waiting
from .support import PATIENCE_S, Either, done, in_thread, until


def answer_to(batch: pb.StreamUpdatesRequest, number: int | None = None, outcomes: int | None = None) -> Any:
    """An answer, or what something on the way has made of it."""
    count = len(batch.updates) if outcomes is None else outcomes
    return pb.StreamUpdatesResponse(
        batch=batch.batch if number is None else number, outcomes=[pb.UpdateOutcome(id="job") for _ in range(count)]
    )


@pytest.fixture
def two_attempts() -> tuple[ReportQueue, list[AttemptReports]]:
    queue = ReportQueue()
    attempts = [AttemptReports(f"job-{number}", 1, None, 0.0, lambda: None) for number in range(2)]
    for reports in attempts:
        queue.add(reports)
        reports.add(progress_report(reports, 10, None, {}, None, None))
    return queue, attempts


@pytest.mark.parametrize(
    "answer",
    [
        lambda batch: answer_to(batch, number=batch.batch + 1),
        lambda batch: answer_to(batch, number=batch.batch - 1),
        lambda batch: answer_to(batch, outcomes=1),
        lambda batch: answer_to(batch, outcomes=3),
        lambda batch: answer_to(batch, outcomes=0),
    ],
    ids=["a later one", "an earlier one", "too few outcomes", "too many", "none"],
)
def test_an_answer_that_is_not_the_awaited_one_breaks_the_stream_and_loses_nothing(
    two_attempts: tuple[ReportQueue, list[AttemptReports]], answer: Callable[[Any], Any]
) -> None:
    queue, attempts = two_attempts
    first: Any = queue.next_batch(0.0)
    with pytest.raises(TransportError, match="out of step") as told:
        queue.handle_response(answer(first), 0.0)
    wait = queue.stream_ended(told.value, 0.0)
    # The distance of two reports from another counts for one that is sent again, too.
    again: Any = queue.next_batch(wait + REPORT_INTERVAL_S)

    assert [update.progress for update in again.updates] == [update.progress for update in first.updates]
    queue.handle_response(answer_to(again), wait)
    assert all(reports.over is None and reports.rejected is None for reports in attempts)


def test_an_answer_to_nothing_breaks_the_stream() -> None:
    with pytest.raises(TransportError, match="expected nothing"):
        ReportQueue().handle_response(pb.StreamUpdatesResponse(batch=1), 0.0)


def test_an_update_that_cannot_be_sent_fails_its_run_alone(
    two_attempts: tuple[ReportQueue, list[AttemptReports]], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, (culprit, other) = two_attempts
    add = module._add_update

    def spoilt(request: Any, update: Any) -> None:
        add(request, update)
        if update.id == culprit.job_id:
            raise RuntimeError("it does not fit")

    monkeypatch.setattr(module, "_add_update", spoilt)
    batch: Any = queue.next_batch(0.0)

    assert [update.progress.id for update in batch.updates] == [other.job_id]
    queue.handle_response(answer_to(batch), 0.0)
    other.raise_error()
    with pytest.raises(InvalidField, match="cannot be sent: RuntimeError"):
        culprit.raise_error()


async def runs_end_well(client: Any, count: int = 5) -> None:
    """Do some runs at once, which report before they end."""
    jobs = [await done(client.create("default")) for _ in range(count)]

    async def in_a_task(job: Any) -> None:
        async with Either(client.run(job, patience=PATIENCE_S)) as run:
            run.progress(50, "half way")
            await asyncio.sleep(0)

    def in_a_thread(job: Any) -> None:
        with client.run(job, patience=PATIENCE_S) as run:
            run.progress(50, "half way")

    async with asyncio.timeout(PATIENCE_S):
        if isinstance(client, Client):
            await asyncio.gather(*(asyncio.to_thread(in_a_thread, job) for job in jobs))
        else:
            await asyncio.gather(*(in_a_task(job) for job in jobs))
    assert {(await done(client.get(job))).state for job in jobs} == {State.COMPLETED}


class Broken(BaseException):
    """Nothing that anybody expects."""


BREAKS = [RuntimeError("oops"), Broken("oops"), AssertionError("batches are answered in order"), MemoryError()]


@pytest.mark.parametrize("error", BREAKS, ids=repr)
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (ReportQueue, "handle_response"),
        (ReportQueue, "next_batch"),
        (ReportQueue, "next_batch_in_s"),
        (AttemptReports, "take"),
    ],
)
async def test_whatever_is_raised_where_reports_are_sent_runs_end_well(
    either: Any, monkeypatch: pytest.MonkeyPatch, kind: type, place: str, error: BaseException
) -> None:
    original, left = getattr(kind, place), [3]

    def broken(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return original(*arguments)

    monkeypatch.setattr(kind, place, broken)
    await runs_end_well(either)

    assert left == [0]


@pytest.mark.parametrize("error", [RuntimeError("oops"), asyncio.CancelledError(), ConnectionError()], ids=repr)
async def test_a_stream_that_cannot_be_opened_is_opened_again(either: Any, error: BaseException) -> None:
    reporter, left = either._report_sender, [3]
    open_stream = reporter._open_stream

    def broken(requests: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return open_stream(requests)

    reporter._open_stream = broken
    await runs_end_well(either)

    assert left == [0]


async def test_reports_continue_when_grpc_gives_up_a_call_as_if_its_task_was_cancelled(
    async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What grpc.aio does when it cannot write, behind a proxy whose server was killed."""
    calls: list[Any] = []
    reporter = async_client._report_sender
    open_stream = reporter._open_stream

    def noted(requests: Any) -> Any:
        calls.append(open_stream(requests))
        return calls[-1]

    monkeypatch.setattr(reporter, "_open_stream", noted)
    for _ in range(5):
        async with async_client.run(await async_client.create("default")) as run:
            run.progress(10)
            await until_open(calls)
            # A batch is under way, or will be: it is never answered.
            calls.pop().cancel()
            run.progress(20)
        assert (await async_client.get(run.id)).state is State.COMPLETED


async def until_open(calls: list[Any]) -> None:
    await waiting.until(lambda: calls)


async def test_a_reporting_task_that_was_cancelled_continues_for_its_runs(async_client: AsyncClient) -> None:
    async with async_client.run(await async_client.create("default")) as run:
        run.progress(10)
        await asyncio.sleep(0)
        reporter: Any = async_client._report_sender
        reporter._task.cancel()
        await asyncio.sleep(0)
        run.progress(20, "went on")

    ended = await async_client.get(run.id)
    assert (ended.state, ended.progress_message) == (State.COMPLETED, "went on")
    await runs_end_well(async_client)


async def test_a_reporting_task_that_died_is_replaced(async_client: AsyncClient) -> None:
    async with async_client.run(await async_client.create("default")) as run:
        run.progress(10)
        await asyncio.sleep(0)
        reporter: Any = async_client._report_sender
        while not reporter._task.done():
            reporter._task.cancel()
            await asyncio.sleep(0)
        run.progress(20, "went on")

    ended = await async_client.get(run.id)
    assert (ended.state, ended.progress_message) == (State.COMPLETED, "went on")


async def test_a_reporting_thread_that_died_is_replaced_and_that_is_logged(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    died = threading.Event()
    original = type(client._report_sender)._run_stream

    def dying(self: Any, stream: Any) -> Any:
        if not died.is_set():
            died.set()
            raise SystemExit
        return original(self, stream)

    monkeypatch.setattr(type(client._report_sender), "_run_stream", dying)
    with client.run(client.create("default"), heartbeat=None) as run:
        thread: Any = client._report_sender._thread
        until(lambda: died.is_set() and not thread.is_alive())
        run.progress(10, "went on")

    ended = client.get(run.id)
    assert (ended.state, ended.progress_message) == (State.COMPLETED, "went on")
    assert "the thread that sends reports has died; starting another" in caplog.text


def raise_in(thread: threading.Thread, kind: type[BaseException]) -> bool:
    """Raise an exception in another thread, as debuggers and watchdogs do, if it waits for something just now.

    At any moment would be too much: raised in ``Condition.__enter__`` after that has acquired the lock, and before the
    ``with`` block, it leaves the lock held for ever. If that is gRPC's, no later call of the channel returns.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    waits = frame is not None and frame.f_code is threading.Condition.wait.__code__
    if waits:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind))
    return waits


@contextmanager
def undisturbed() -> Iterator[None]:
    """No other thread gets the interpreter unless this one waits."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE_S)
    try:
        # Threads that waited for it before still have the shorter interval.
        threading.Event().wait(2 * interval)
        yield
    finally:
        sys.setswitchinterval(interval)


async def test_exceptions_thrown_into_the_reporting_thread_cost_no_run(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    thrown = 0

    def throw() -> None:
        nonlocal thrown
        while thrown < 5:
            threading.Event().wait(0.05)
            thread = client._report_sender._thread
            if thread is not None and thread.is_alive():
                with undisturbed():
                    thrown += raise_in(thread, Broken)

    with in_thread(throw):
        for _ in range(5):
            await runs_end_well(client)
        while thrown < 5:
            await runs_end_well(client)


@pytest.mark.parametrize("step", range(6))
async def test_a_server_that_is_away_between_any_two_steps_of_a_run_costs_nothing(
    either: Any, server: Any, step: int
) -> None:
    job = await done(either.create("default"))
    steps: list[Callable[[Any], Any]] = [
        lambda run: run.progress(10, "begun"),
        lambda run: run.usage(tokens=7),
        lambda run: run.progress(20, None, page=1),
        lambda run: run.check(),
        lambda run: setattr(run, "result", {"pages": 2}),
    ]
    async with Either(either.run(job)) as run:
        for number, do in enumerate(steps):
            if number == step:
                await asyncio.to_thread(server.restart)
            do(run)
        if step == len(steps):
            await asyncio.to_thread(server.stop)
            restarted = asyncio.get_running_loop().run_in_executor(None, partial(start_later, server))
        else:
            restarted = None
    if restarted is not None:
        await restarted

    ended = server.client(wait_for_ready=True).get(job)
    assert (ended.state, ended.result, ended.metadata) == (State.COMPLETED, {"pages": 2}, {"page": 1})
    assert (ended.estimated_tokens, ended.progress_message) == (7, "begun")


def start_later(server: Any) -> None:
    threading.Event().wait(0.2)
    server.start()
