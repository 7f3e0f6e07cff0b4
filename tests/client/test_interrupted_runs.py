"""A run that is interrupted while it begins or ends loses no work and leaves no attempt claimed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobstate_client import AsyncClient, AttemptOutcome, Client, ClientClosed, EventType, Job, NewJob, State
from jobstate_client.aio import run_context as aio_run
from jobstate_client.sync import run_context as sync_run
from jobstate_client.testing import JobstateServer

from .support import PATIENCE_S, Either, done, in_thread, raised, until


@contextmanager
def ctrl_c_during(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, *, after: bool = False) -> Iterator[None]:
    """Have the first call of this method interrupted, before it does anything or right after."""
    method = getattr(owner, name)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, method)
        if after:
            method(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)
    yield


async def leaving(client: AsyncClient, job: Any, begun: asyncio.Event, server: JobstateServer) -> None:
    """Do a run whose end the server cannot hear yet."""
    async with client.run(job) as run:
        run.progress(99, "nearly")
        run.result = {"pages": 12}
        await asyncio.to_thread(server.stop)
        begun.set()


async def test_a_finished_run_that_is_cancelled_while_it_leaves_is_reported_all_the_same(
    async_client: AsyncClient, server: JobstateServer, client: Client
) -> None:
    job, begun = await async_client.create("default"), asyncio.Event()
    task = asyncio.create_task(leaving(async_client, job, begun, server))
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
        # Again and again, as some libraries do.
        for _ in range(5):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.to_thread(server.start)
        with pytest.raises(asyncio.CancelledError):
            await task

    ended = server.client(wait_for_ready=True).get(job)
    assert (ended.state, ended.result, ended.progress_message) == (State.COMPLETED, {"pages": 12}, "nearly")


async def test_a_timeout_around_a_run_that_leaves_is_a_timeout(
    async_client: AsyncClient, server: JobstateServer
) -> None:
    job, begun = await async_client.create("default"), asyncio.Event()

    async def time_out_once_it_leaves(limit: asyncio.Timeout) -> None:
        await begun.wait()
        limit.reschedule(asyncio.get_running_loop().time())

    async def leave_within_a_timeout() -> None:
        async with asyncio.timeout(PATIENCE_S) as limit, asyncio.TaskGroup() as group:
            group.create_task(time_out_once_it_leaves(limit))
            await leaving(async_client, job, begun, server)

    restarted = asyncio.ensure_future(asyncio.to_thread(restart_when, begun, server))
    with pytest.raises(TimeoutError):
        await leave_within_a_timeout()
    await restarted

    assert server.client(wait_for_ready=True).get(job).state is State.COMPLETED


def restart_when(begun: asyncio.Event, server: JobstateServer) -> None:
    until(begun.is_set)
    threading.Event().wait(0.5)
    server.start()


async def test_leaving_is_shielded_for_a_few_seconds_and_no_longer(
    async_client: AsyncClient, server: JobstateServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(aio_run, "INTERRUPTED_PATIENCE_S", 0.2)
    job, begun = await async_client.create("default"), asyncio.Event()
    task = asyncio.create_task(leaving(async_client, job, begun, server))
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert f"the end of job {job.id} was not reported" in caplog.text


@pytest.mark.parametrize("turns", range(12))
async def test_a_run_that_is_cancelled_at_any_point_of_its_beginning_leaves_nothing_claimed(
    async_client: AsyncClient, client: Client, turns: int
) -> None:
    job = await async_client.create("default", id="first")
    bodies: list[int] = []

    async def work() -> None:
        async with async_client.run(job, heartbeat=None):
            bodies.append(turns)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    ended = client.get(job)
    if bodies:
        assert ended.last_error is not None
        assert (ended.state, ended.last_error.code) == (State.RETRYING, "CancelledError")
    else:
        assert (ended.claimed, ended.retry_count, ended.last_error) == (False, 0, None)
        assert ended.state is (State.PROCESSING if ended.attempt else State.QUEUED)


def assert_given_back(client: Client, job: Job, cause: str) -> None:
    """The first attempt was released because of this, which cost no retry, and nobody has claimed the next."""
    given_back, (attempt,) = client.get(job), client.attempts(job)
    (released,) = client.watch(types=[EventType.RELEASED], start="earliest", follow=False)
    assert (given_back.state, given_back.claimed, given_back.retry_count) == (State.PROCESSING, False, 0)
    assert (attempt.outcome, attempt.error) == (AttemptOutcome.RELEASED, None)
    assert released.detail.reason == f"{cause} while the run began; nothing was done"


async def test_what_a_cancelled_run_had_claimed_may_be_had_by_the_next_at_once(
    async_client: AsyncClient, client: Client, server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await async_client.create("default")
    start = async_client.start

    async def slow(*arguments: Any, **options: Any) -> Any:
        started = await start(*arguments, **options)
        task.cancel()
        await asyncio.sleep(0)
        return started

    monkeypatch.setattr(async_client, "start", slow)

    async def work() -> None:
        async with async_client.run(job):
            pytest.fail("it began")

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task

    assert_given_back(client, job, "CancelledError")
    with client.run(job) as run:
        assert run.attempt == 2


@pytest.mark.parametrize("after", [False, True], ids=["before it was sent", "after it was answered"])
def test_ctrl_c_while_a_run_starts_gives_back_what_was_claimed(
    client: Client, server: JobstateServer, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    job = client.create("default")
    with ctrl_c_during(client, "start", monkeypatch, after=after), pytest.raises(KeyboardInterrupt), client.run(job):
        pytest.fail("it began")

    assert_given_back(client, job, "KeyboardInterrupt")


def test_ctrl_c_while_a_job_is_created_starts_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        ctrl_c_during(client, "create", monkeypatch, after=True),
        pytest.raises(KeyboardInterrupt),
        client.run(NewJob("default", id="first")),
    ):
        pytest.fail("it began")

    assert client.get("first").state is State.QUEUED


@pytest.mark.parametrize("after", [False, True], ids=["before it was sent", "after it was answered"])
@pytest.mark.parametrize("fails", [False, True], ids=["completing", "failing"])
def test_ctrl_c_while_a_run_leaves_reports_the_end_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch, after: bool, fails: bool
) -> None:
    job = client.create("default")

    def work() -> None:
        with client.run(job) as run:
            run.result = {"pages": 12}
            if fails:
                raise OSError("disk")

    with ctrl_c_during(client._report_sender, "deliver", monkeypatch, after=after), pytest.raises(KeyboardInterrupt):
        work()

    ended = client.get(job)
    assert ended.state is (State.RETRYING if fails else State.COMPLETED)
    assert ended.result == (None if fails else {"pages": 12})


def test_a_second_ctrl_c_while_a_run_leaves_gives_up(
    client: Client, server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        for _ in range(2):
            until(waiting.is_set)
            waiting.clear()
            os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Event()
    deliver = client._report_sender.deliver

    def told(*arguments: Any) -> Any:
        waiting.set()
        return deliver(*arguments)

    monkeypatch.setattr(client._report_sender, "deliver", told)
    monkeypatch.setattr(sync_run, "INTERRUPTED_PATIENCE_S", PATIENCE_S)

    def work() -> None:
        with client.run(client.create("default")):
            server.stop()

    with in_thread(interrupt), pytest.raises(KeyboardInterrupt):
        work()


async def test_closing_the_client_ends_a_run_that_leaves_with_one_error_at_once(
    server: JobstateServer, client: Client
) -> None:
    other, async_other = Client(server.address), AsyncClient(server.address)
    jobs = [client.create("default"), client.create("default")]
    leaving_now = threading.Event()

    def work() -> None:
        with other.run(jobs[0]):
            assert leaving_now.wait(PATIENCE_S)

    begun = asyncio.Event()
    async with asyncio.timeout(PATIENCE_S):
        task = asyncio.create_task(leaving(async_other, jobs[1], begun, server))
        with in_thread(lambda: raised(ClientClosed, work)) as told:
            await begun.wait()
            leaving_now.set()
            await asyncio.to_thread(until, lambda: ending(other) and ending(async_other))
            other.close()
            await async_other.close()
            error = await asyncio.to_thread(told)
        with pytest.raises(ClientClosed) as async_error:
            await task

    says = "the client was closed before the end of the run was sent"
    assert (str(error), str(async_error.value)) == (says, says)


def ending(client: Any) -> bool:
    attempts = list(client._report_sender._queue._attempts)
    return bool(attempts) and all(reports.ending is not None for reports in attempts)


async def test_a_run_of_a_client_that_was_closed_raises_that_at_its_next_report(either: Any) -> None:
    async def work() -> None:
        async with Either(either.run(await done(either.create("default")))) as run:
            await done(either.close())
            run.progress(10)
            pytest.fail("it went on")

    with pytest.raises(ClientClosed) as told:
        await work()

    assert "This failure could not be reported" in told.value.__notes__[0]


async def test_an_exception_in_the_body_is_what_is_raised_when_the_client_was_closed(either: Any) -> None:
    async def work() -> None:
        async with Either(either.run(await done(either.create("default")))):
            await done(either.close())
            raise OSError("disk")

    with pytest.raises(OSError, match="disk") as told:
        await work()

    assert "the client is closed" in told.value.__notes__[0]


def test_runs_that_a_program_leaves_behind_when_its_loop_ends_are_failed(
    client: Client, server: JobstateServer
) -> None:
    job = client.create("default")

    async def main() -> None:
        other = AsyncClient(server.address)
        begun = asyncio.Event()

        async def work() -> None:
            async with other.run(job):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        assert not task.done()

    # Its end cancels all tasks at once: the run, and the one that sends its reports.
    asyncio.run(main())

    ended = client.get(job)
    assert ended.last_error is not None
    assert (ended.state, ended.last_error.code) == (State.RETRYING, "CancelledError")
