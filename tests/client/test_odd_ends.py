"""An end is reported whatever the code does that it is made of: exceptions, predicates and results are the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from jobstate_client import Client, NewJob, Release, Run, State

from .support import PATIENCE_S, Either, in_thread, raised


class Odd(BaseException):
    """Nothing that anybody expects."""


class Unreadable(Exception):
    """Making its text raises ``problem``."""

    def __init__(self, problem: BaseException) -> None:
        self.problem = problem

    def __str__(self) -> str:
        raise self.problem


class Uncoded(Unreadable):
    """Reading its code does."""

    __str__ = Exception.__str__

    @property
    def code(self) -> str:
        raise self.problem


class Unsendable(Mapping[str, object]):
    """A result that raises ``problem`` when it is read."""

    def __init__(self, problem: BaseException) -> None:
        self.problem = problem

    def __getitem__(self, key: str) -> object:
        raise self.problem

    def __iter__(self) -> Iterator[str]:
        raise self.problem

    def __len__(self) -> int:
        return 1


def raising(error: BaseException) -> Callable[[Any], Any]:
    def function(_: Any) -> Any:
        raise error

    return function


PROBLEMS = [Odd("oops"), SystemExit(3), KeyboardInterrupt("mine"), RuntimeError("a bug")]


async def run_one(client: Any, handler: Callable[[Run], Any], **options: Any) -> BaseException | None:
    """Have a worker do one job with this handler. Returns what its ``run`` raises."""
    other = "second"
    if isinstance(client, Client):
        client.create_many([NewJob("work", id="first", max_retries=0), NewJob("work", id=other)])

        def handle(run: Run) -> Any:
            return None if run.id == other else handler(run)

        worker = client.worker(handle, job_types=["work"], **options)
        with in_thread(lambda: outcome(worker.run)) as ended:
            await asyncio.to_thread(client.wait, "first", PATIENCE_S)
            worker.stop()
            return await asyncio.to_thread(ended)
    await client.create_many([NewJob("work", id="first", max_retries=0), NewJob("work", id=other)])

    async def handle_async(run: Run) -> Any:
        return None if run.id == other else handler(run)

    async_worker = client.worker(handle_async, job_types=["work"], **options)

    async def stop() -> None:
        await client.wait("first")
        async_worker.stop()

    stopping = asyncio.create_task(stop())
    async with asyncio.timeout(PATIENCE_S):
        try:
            await async_worker.run()
        except BaseException as error:
            return error
        finally:
            await stopping
    return None


def outcome(work: Callable[[], object]) -> BaseException | None:
    try:
        work()
    except BaseException as error:
        return error
    return None


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
@pytest.mark.parametrize("what", ["its text", "its code", "is_retryable", "the result"])
async def test_an_attempt_ends_though_what_describes_it_raises(
    either: Any, client: Client, what: str, problem: BaseException
) -> None:
    """What ends a program stops the worker, as when a handler raises it."""
    handlers: dict[str, Callable[[Run], Any]] = {
        "its text": raising(Unreadable(problem)),
        "its code": raising(Uncoded(problem)),
        "is_retryable": raising(ValueError("no")),
        "the result": lambda run: Unsendable(problem),
    }
    options = {"is_retryable": raising(problem)} if what == "is_retryable" else {}

    ended = await run_one(either, handlers[what], **options)

    job = client.get("first")
    assert job.last_error is not None
    assert (job.state, job.attempt) == (State.PERMANENTLY_FAILED, 1)
    named = {"its text": "Unreadable", "its code": "Uncoded", "is_retryable": "ValueError"}
    assert job.last_error.code == named.get(what, type(problem).__name__)
    if what != "the result":
        assert type(problem).__name__ in job.last_error.message
    assert ended is (None if isinstance(problem, Odd | RuntimeError) else problem)


async def test_a_run_says_what_the_predicate_raised_and_has_reported_its_end(either: Any, client: Client) -> None:
    job, problem = NewJob("work", id="first", max_retries=0), SystemExit(3)

    async def work() -> None:
        async with Either(either.run(job, is_retryable=raising(problem))):
            raise ValueError("no")

    with pytest.raises(SystemExit) as caught:
        await work()

    assert caught.value is problem
    assert client.get("first").state is State.PERMANENTLY_FAILED


class Busy(Release):
    """A subclass as people write them."""

    def __init__(self, status: int) -> None:
        self.status = status


class Mutable(Release):
    """A subclass whose attributes are no span and no text."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def test_a_subclass_of_release_need_not_call_its_constructor(client: Client) -> None:
    client.create("work", id="first", max_retries=0)

    assert raised(Busy, lambda: run_block(client, Busy(429))).status == 429

    job = client.get("first")
    assert (job.state, job.attempt, job.claimed, job.last_error) == (State.PROCESSING, 2, False, None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Mutable(delay="20"), "TypeError"),
        (Mutable(delay=-1.0), "INVALID_FIELD"),
        (Mutable(delay=float("nan")), "ValueError"),
        (Mutable(reason=429), "TypeError"),
        (Mutable(reason="x" * 5_000), "INVALID_FIELD"),
    ],
    ids=lambda value: str(vars(value))[:20] if isinstance(value, Release) else value,
)
def test_a_release_that_cannot_be_sent_fails_the_attempt_and_says_why(
    client: Client, error: Release, code: str
) -> None:
    client.create("work", id="first", max_retries=0)

    assert raised(Mutable, lambda: run_block(client, error)) is error

    job = client.get("first")
    assert job.last_error is not None
    assert (job.state, job.last_error.code) == (State.PERMANENTLY_FAILED, code)


def run_block(client: Client, error: Exception) -> None:
    with client.run("first"):
        raise error
