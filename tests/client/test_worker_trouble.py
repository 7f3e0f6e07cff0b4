"""A worker continues whatever its handlers raise, stops in order, and never dies silently."""

from __future__ import annotations

import _thread
import asyncio
import functools
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobstate_client import AsyncClient, Client, ClientClosed, EventType, JobFailure, NewJob, Run, State
from jobstate_client.testing import JobstateServer

from .processes import child, server_process
from .support import PATIENCE_S, in_thread, raised, until


class Odd(BaseException):
    """Nothing that anybody expects."""


async def work_off(client: Any, handler: Callable[[Run], Any], count: int, concurrency: int = 2) -> None:
    """Have a worker of this client do the handler's work until so many jobs have ended, then stop it."""
    jobs = [NewJob("work", id=f"job-{number:02}", max_retries=0) for number in range(count)]
    if isinstance(client, Client):
        client.create_many(jobs)
        worker = client.worker(handler, job_types=["work"], concurrency=concurrency)
        with in_thread(worker.run):
            await asyncio.to_thread(lambda: [client.wait(job.id, timeout=PATIENCE_S) for job in jobs])
            worker.stop()
        return

    async def handle(run: Run) -> Any:
        return handler(run)

    await client.create_many(jobs)
    async_worker = client.worker(handle, job_types=["work"], concurrency=concurrency)
    running = asyncio.create_task(async_worker.run())
    async with asyncio.timeout(PATIENCE_S):
        for job in jobs:
            await client.wait(job.id)
        async_worker.stop()
        await running


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError("mine"), Odd("oops"), GeneratorExit(), StopIteration(), StopAsyncIteration()],
    ids=lambda error: type(error).__name__,
)
async def test_any_exception_fails_its_attempt_and_the_worker_continues(
    either: Any, client: Client, error: BaseException
) -> None:
    def work(run: Run) -> dict[str, int]:
        if run.id < "job-04":
            raise error
        return {"number": 1}

    await work_off(either, work, 6)

    jobs = sorted(client.list(), key=lambda job: job.id)
    assert [job.state for job in jobs] == [State.PERMANENTLY_FAILED] * 4 + [State.COMPLETED] * 2
    # What an iterator ends with cannot leave a coroutine.
    codes = {job.last_error.code for job in jobs[:4] if job.last_error}
    assert codes <= {type(error).__name__, "RuntimeError"}


async def test_an_asyncio_handler_that_cancels_its_own_task_costs_the_worker_nothing(
    async_client: AsyncClient, client: Client
) -> None:
    def work(run: Run) -> None:
        task = asyncio.current_task()
        assert task is not None
        if run.id < "job-04":
            task.cancel()

    await work_off(async_client, work, 6)

    # It was done when it was cancelled: leaving is shielded.
    assert {job.state for job in client.list()} == {State.COMPLETED}


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([1, 2], "the handler returned a list; a result is a dict, or None for no result"),
        ("text", "the handler returned a str; a result is a dict, or None for no result"),
        (True, "the handler returned a bool; a result is a dict, or None for no result"),
        ({"a": object()}, "result.a: a object is not JSON"),
    ],
    ids=["a list", "a text", "a bool", "a dict of something else"],
)
async def test_what_is_no_result_fails_the_attempt_with_a_sentence(
    either: Any, client: Client, returned: Any, says: str
) -> None:
    await work_off(either, lambda run: returned, 1)

    (job,) = client.list()
    assert job.last_error is not None
    assert (job.state, job.last_error.code, job.last_error.message) == (State.PERMANENTLY_FAILED, "TypeError", says)


async def test_an_empty_result_is_kept_as_such_and_none_as_none(either: Any, client: Client) -> None:
    await work_off(either, lambda run: {} if run.id == "job-00" else None, 2)

    assert (client.get("job-00").result, client.get("job-01").result) == ({}, None)


async def test_a_handler_of_the_wrong_kind_is_refused_or_fails_with_a_sentence(
    async_client: AsyncClient, client: Client
) -> None:
    async def coroutine(run: Run) -> None:
        pass

    class Handler:
        async def __call__(self, run: Run) -> None:
            pass

    for handler in (coroutine, Handler()):
        with pytest.raises(TypeError, match="handler is a coroutine function"):
            client.worker(handler, job_types=["work"])
    for each in (client, async_client):
        with pytest.raises(TypeError, match="handler must be a function of a run, not a str"):
            each.worker("work", job_types=["work"])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="job_types must name at least one type"):
            each.worker(print, job_types=[])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"job_types\[1\] must be a text, not NoneType"):
            each.worker(print, job_types=["work", None])  # type: ignore[arg-type,list-item]
        with pytest.raises(TypeError, match="concurrency must be an int, not float"):
            each.worker(print, job_types=["work"], concurrency=1.5)  # type: ignore[arg-type]


async def test_a_function_that_is_no_coroutine_function_fails_its_attempt(
    async_client: AsyncClient, client: Client
) -> None:
    await async_client.create("work", id="first", max_retries=0)
    worker = async_client.worker(lambda run: {"a": 1}, job_types=["work"])  # type: ignore[arg-type,return-value]
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE_S):
        ended = await async_client.wait("first")
        worker.stop()
        await running

    assert ended.last_error is not None
    assert "it has to be a coroutine function" in ended.last_error.message


def call(function: Callable[[Run], Any], run: Run) -> Any:
    """What hides from a look that a function is a coroutine function."""
    return function(run)


def test_a_coroutine_function_in_a_worker_for_threads_is_refused(client: Client) -> None:
    async def coroutine(run: Run) -> None:
        pass

    client.create("work", id="first", max_retries=0)
    worker = client.worker(functools.partial(call, coroutine), job_types=["work"])
    with in_thread(worker.run):
        ended = client.wait("first", timeout=PATIENCE_S)
        worker.stop()

    assert ended.last_error is not None
    assert ended.last_error.message.startswith("the handler returned a coroutine")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
async def test_a_handler_that_ends_the_program_stops_the_worker_in_order(
    either: Any, client: Client, error: BaseException
) -> None:
    client.create_many(NewJob("work", id=f"job-{number}", max_retries=0) for number in range(5))
    both: set[str] = set()

    if isinstance(either, Client):

        def work(run: Run) -> None:
            both.add(run.id)
            until(lambda: len(both) == 2)
            if run.id == "job-0":
                raise error
            until(lambda: worker._stopping)

        worker = either.worker(work, job_types=["work"], concurrency=2)
        assert await asyncio.to_thread(raised, type(error), worker.run) is error
    else:
        begun = asyncio.Barrier(2)

        async def work_async(run: Run) -> None:
            both.add(run.id)
            await begun.wait()
            if run.id == "job-0":
                raise error
            await async_worker._stopping.wait()

        async_worker = either.worker(work_async, job_types=["work"], concurrency=2)
        # In a task it would end the whole event loop, as asyncio has it.
        coroutine = async_worker.run()
        with pytest.raises(type(error)):
            await coroutine

    jobs = sorted(client.list(), key=lambda job: job.id)
    assert jobs[0].last_error is not None
    assert (jobs[0].state, jobs[0].last_error.code) == (State.PERMANENTLY_FAILED, type(error).__name__)
    assert "job-0" in both
    assert sorted(job.state for job in jobs[1:]) == [State.COMPLETED, *[State.QUEUED] * 3]


@pytest.mark.parametrize("part", ["_next", "_free_hands"])
async def test_a_worker_whose_part_has_died_ends_with_that_error(
    either: Any, client: Client, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    async def broken_async(*_: Any) -> Any:
        raise RuntimeError("a bug")

    client.create("work")

    async def handler(run: Run) -> None:
        pass

    if isinstance(either, Client):
        worker = either.worker(print, job_types=["work"], concurrency=3)
        monkeypatch.setattr(worker, part, broken)
        assert str(await asyncio.to_thread(raised, RuntimeError, worker.run)) == "a bug"
    else:
        async_worker = either.worker(handler, job_types=["work"], concurrency=3)
        monkeypatch.setattr(async_worker, part, broken_async)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(RuntimeError, match="a bug"):
                await async_worker.run()


async def test_an_asyncio_worker_whose_task_was_cancelled_ends_with_an_error(async_client: AsyncClient) -> None:
    async def handler(run: Run) -> None:
        pass

    running = asyncio.create_task(async_client.worker(handler, job_types=["work"], concurrency=3).run())
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.sleep(0)
        (slot,) = [task for task in asyncio.all_tasks() if task.get_name() == "jobstate-worker-1"]
        # Begun, so that it has something to end.
        await asyncio.sleep(0)
        slot.cancel()
        with pytest.raises(RuntimeError, match="a task of the worker was cancelled"):
            await running


async def test_a_worker_whose_client_is_closed_ends_with_that_error(server: JobstateServer) -> None:
    at_it, other, async_other = threading.Event(), Client(server.address), AsyncClient(server.address)

    async def handler(run: Run) -> None:
        at_it.set()

    worker = other.worker(lambda run: at_it.set(), job_types=["work"])
    other.create("work")
    with in_thread(lambda: raised(ClientClosed, worker.run)):
        assert await asyncio.to_thread(at_it.wait, PATIENCE_S)
        other.close()
    at_it.clear()
    await async_other.create("work")
    running = asyncio.create_task(async_other.worker(handler, job_types=["work"]).run())
    assert await asyncio.to_thread(at_it.wait, PATIENCE_S)
    await async_other.close()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ClientClosed):
            await running


SYNC = """
import logging, sys
from jobstate_client import Client

logging.basicConfig(stream=sys.stderr)

def work(run):
    print("at it", flush=True)
    sys.stdin.readline()
    return {"by": "the first"}

with Client(sys.argv[1]) as client:
    client.worker(work, job_types=["work"]).run()
    print("returned", flush=True)
"""

ASYNC = """
import asyncio, logging, sys
from jobstate_client import AsyncClient

logging.basicConfig(stream=sys.stderr)

async def work(run):
    print("at it", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return {"by": "the first"}

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        await client.worker(work, job_types=["work"]).run()
        print("returned", flush=True)

asyncio.run(main())
"""

PROGRAMS = pytest.mark.parametrize("program", [SYNC, ASYNC], ids=["sync", "asyncio"])


@PROGRAMS
def test_the_first_ctrl_c_stops_a_worker_in_order(tmp_path: Path, program: str) -> None:
    with server_process(tmp_path / "jobs.db") as (_, address), Client(address) as client:
        client.create("work", id="first")
        client.create("work", id="second")
        log = tmp_path / "worker.log"
        with child("-c", program, address, log=log) as worker:
            assert worker.hear() == "at it"
            worker.send(signal.SIGINT)
            # It is told once it has been seen; what is under way goes on until it is done.
            with client.watch(job_ids=["first"], types=[EventType.COMPLETED], start="earliest") as watch:
                until_in(log, "interrupt again to give")
                worker.say("go on")
                next(watch)
            assert worker.hear() == "returned"
            assert worker.process.wait(PATIENCE_S) == 0

        assert client.get("first").result == {"by": "the first"}
        assert client.get("second").state is State.QUEUED
    assert "Traceback" not in log.read_text("utf-8")


@PROGRAMS
def test_the_second_ctrl_c_gives_up_and_says_so(tmp_path: Path, program: str) -> None:
    with server_process(tmp_path / "jobs.db") as (_, address), Client(address) as client:
        client.create("work", id="first")
        log = tmp_path / "worker.log"
        with child("-c", program, address, log=log) as worker:
            assert worker.hear() == "at it"
            worker.send(signal.SIGINT)
            until_in(log, "interrupt again to give")
            worker.send(signal.SIGINT)
            with client.watch(job_ids=["first"], types=[EventType.FAILED], start="earliest") as watch:
                failed = next(watch)
            # The thread that reads its input is the program's own to end.
            worker.say("go on")
            assert worker.process.wait(PATIENCE_S) != 0

    assert failed.detail.error is not None
    assert failed.detail.error.code in {"KeyboardInterrupt", "CancelledError"}


def test_a_second_ctrl_c_that_comes_while_the_first_is_logged_gives_up(server: JobstateServer) -> None:
    class Impatient(logging.Handler):
        """Interrupts again as soon as it reads how."""

        def emit(self, record: logging.LogRecord) -> None:
            if "interrupt again" in record.getMessage():
                signal.raise_signal(signal.SIGINT)

    go_on = threading.Event()

    def work(_run: Run) -> None:
        _thread.interrupt_main()
        go_on.wait(PATIENCE_S)

    impatient, logger = Impatient(), logging.getLogger("jobstate_client")
    logger.addHandler(impatient)
    try:
        with server.client() as client:
            client.create("work", id="first")
            with pytest.raises(KeyboardInterrupt):
                client.worker(work, job_types=["work"]).run()
            assert not go_on.is_set()
            error = client.get("first").last_error
    finally:
        go_on.set()
        logger.removeHandler(impatient)

    assert error is not None
    assert error.code == "KeyboardInterrupt"


def until_in(log: Path, text: str) -> None:
    until(lambda: log.exists() and text in log.read_text("utf-8"))


def test_a_program_with_a_handler_of_its_own_for_ctrl_c_keeps_it(server: JobstateServer) -> None:
    seen: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:

        async def main() -> None:
            async with server.async_client() as client:
                at_it = asyncio.Event()

                async def work(run: Run) -> None:
                    at_it.set()
                    signal.raise_signal(signal.SIGINT)

                await client.create("work")
                worker = client.worker(work, job_types=["work"])
                running = asyncio.create_task(worker.run())
                await at_it.wait()
                assert not worker._stopping.is_set()
                worker.stop()
                await running

        asyncio.run(main())
    finally:
        signal.signal(signal.SIGINT, previous)

    assert seen == [signal.SIGINT]


def test_a_failure_says_what_its_handler_said(client: Client) -> None:
    def work(run: Run) -> None:
        raise JobFailure("slow down", code="RATE_LIMITED", retryable=False, details={"limit": 5})

    client.create("work", id="first")
    worker = client.worker(work, job_types=["work"])
    with in_thread(worker.run):
        ended = client.wait("first", timeout=PATIENCE_S)
        worker.stop()

    assert ended.last_error is not None
    assert (ended.last_error.code, ended.last_error.details) == ("RATE_LIMITED", {"limit": 5})
