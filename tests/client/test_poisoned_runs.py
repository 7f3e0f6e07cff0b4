"""Whatever one run reports, returns or raises, it fails alone and with its own code; the others complete."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from jobstate_client import Client, Job, JobFailure, NewJob, Run, State
from jobstate_client.testing import JobstateServer

from .support import PATIENCE_S

OTHERS = 40


class Unreadable(Mapping[str, Any]):
    """A mapping that breaks while it is read."""

    def __getitem__(self, key: str) -> Any:
        raise LookupError(key)

    def __iter__(self) -> Iterator[str]:
        yield "first"
        raise LookupError("second")

    def __len__(self) -> int:
        return 2


class Mute(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class NoText(Exception):
    """An exception whose text is none."""

    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # noqa: PLE0307


class Guarded(Exception):
    """An exception whose attributes cannot be looked at."""

    @property
    def code(self) -> str:
        raise RuntimeError("no code")

    @property
    def retryable(self) -> bool:
        raise RuntimeError("not for you")


def nested(levels: int, bottom: Any = 1) -> dict[str, Any]:
    document: Any = bottom
    for _ in range(levels):
        document = {"a": document}
    return document  # type: ignore[no-any-return]


def recursive() -> dict[str, Any]:
    document: dict[str, Any] = {}
    document["itself"] = document
    return document


def laughs() -> list[Any]:
    """A few lists that make 10**14 values."""
    document: list[Any] = []
    for _ in range(14):
        document = [document] * 10
    return document


def fail(error: BaseException) -> Callable[[Run], None]:
    def poison(run: Run) -> None:
        raise error

    return poison


def progress(**metadata: Any) -> Callable[[Run], None]:
    return lambda run: run.progress(50, "half way", **metadata)


def result(value: Any) -> Callable[[Run], None]:
    def poison(run: Run) -> None:
        run.result = value

    return poison


class Poison(NamedTuple):
    """What one run does, and the failure that it is to be told with."""

    do: Callable[[Run], None]
    code: str
    says: str = ""


POISONS = {
    "metadata too deep": Poison(progress(deep=nested(33)), "INVALID_FIELD", "metadata: is nested deeper than 16"),
    "result too deep": Poison(result(nested(34)), "INVALID_FIELD", "result: is nested deeper than 16 levels"),
    "a list below 32 levels": Poison(result(nested(32, [1])), "INVALID_FIELD", "result: is nested deeper"),
    "metadata too large": Poison(progress(a="x" * 70_000), "INVALID_FIELD", "metadata: has more than 65536 bytes"),
    "result too large": Poison(result({"a": "x" * 70_000}), "INVALID_FIELD", "result: has more than 65536 bytes"),
    "result beyond measure": Poison(result({"a": laughs()}), "INVALID_FIELD", "result: has more than 65536 bytes"),
    "not JSON": Poison(progress(when=object()), "TypeError", "metadata.when: a object is not JSON"),
    "a key that is no text": Poison(result({"a": {1: 2}}), "TypeError", "result.a: keys must be texts, not int"),
    "not a number": Poison(result({"a": [math.nan]}), "ValueError", "result.a[0]: nan cannot be kept"),
    "recursive": Poison(result(recursive()), "INVALID_FIELD", "result: is nested deeper than 16 levels"),
    "half a character": Poison(progress(a="\ud800"), "ValueError", "metadata.a: holds half a character"),
    "half a character in a key": Poison(result({"\udc00": 1}), "ValueError", "result: holds half a character"),
    "a message of half a character": Poison(lambda run: run.progress(1, "\ud800"), "ValueError", "message holds half"),
    "a message too long": Poison(lambda run: run.progress(1, "x" * 5_000), "INVALID_FIELD", "message: has 5000 bytes"),
    "a huge number": Poison(result({"n": 10**400}), "ValueError", "result.n: a number of 1329 bits cannot be kept"),
    "unreadable": Poison(result(Unreadable()), "LookupError", "first"),
    "a result that is a list": Poison(result([1, 2]), "TypeError", "result must be a dict or None, not a list"),
    "usage of no cost": Poison(lambda run: run.usage(cost=math.nan), "ValueError", "cost must be a finite number"),
    "usage of part of a token": Poison(lambda run: run.usage(tokens=1.5), "TypeError", "tokens must be an int"),  # type: ignore[arg-type]
    "usage below zero": Poison(lambda run: run.usage(tokens=-1), "ValueError", "tokens must be 0 to"),
    "usage beyond all models": Poison(lambda run: run.usage(tokens=2**70), "ValueError", "tokens must be 0 to"),
    "details that are a list": Poison(
        fail(JobFailure("slow down", code="OWN", details=[1])),  # type: ignore[arg-type]
        "OWN",
        "slow down (details were left out: TypeError: details: must be a dict, not a list",
    ),
    "details too large": Poison(
        fail(JobFailure("slow down", code="OWN", details={"a": 1, "b": "x" * 9_000})),
        "OWN",
        "slow down (details b were left out: InvalidField: details: has more than 8192 bytes",
    ),
    "a delay that is a text": Poison(
        fail(JobFailure("slow down", code="OWN", retry_delay="5")),  # type: ignore[arg-type]
        "OWN",
        "slow down (retry_delay was left out: TypeError: retry_delay must be a timedelta or a number",
    ),
    "a delay that is no number": Poison(fail(JobFailure("slow down", code="OWN", retry_delay=math.nan)), "OWN", "slow"),
    "a delay without end": Poison(fail(JobFailure("slow down", code="OWN", retry_delay=math.inf)), "OWN", "slow down"),
    "a code that is a number": Poison(
        fail(JobFailure("slow down", code=429)),  # type: ignore[arg-type]
        "JobFailure",
        "slow down (its code is a int, not a text)",
    ),
    "no text": Poison(fail(Mute()), "Mute", "(its text could not be made: RuntimeError)"),
    "a text that is none": Poison(fail(NoText()), "NoText", "(its text could not be made: TypeError)"),
    "attributes that raise": Poison(fail(Guarded("it is so")), "Guarded", "it is so (its code raised RuntimeError"),
    "a predicate that raises": Poison(
        fail(KeyError("it is so")), "KeyError", "'it is so' (is_retryable raised ZeroDivisionError: division by zero"
    ),
}


def is_retryable(error: BaseException) -> bool:
    if isinstance(error, KeyError):
        1 / 0  # noqa: B018
    return True


NEW = NewJob("default", max_retries=0)


def run_in_threads(client: Client, poison: Poison) -> list[str]:
    begun = threading.Barrier(OTHERS + 1)
    ids: list[str] = [""] * (OTHERS + 1)

    def work(number: int) -> None:
        with client.run(NEW, is_retryable=is_retryable) as run:
            ids[number] = run.id
            run.usage(tokens=7)
            begun.wait(PATIENCE_S)
            if number == 0:
                poison.do(run)
            else:
                run.progress(90, "nearly", number=number)
                run.result = {"number": number}

    with ThreadPoolExecutor(OTHERS + 1) as threads:
        errors = [each.exception() for each in [threads.submit(work, number) for number in range(OTHERS + 1)]]
    assert [number for number, error in enumerate(errors) if error is not None] == [0]
    return ids


async def run_in_tasks(client: Any, poison: Poison) -> list[str]:
    ids: list[str] = [""] * (OTHERS + 1)
    begun = asyncio.Barrier(OTHERS + 1)

    async def work(number: int) -> None:
        async with client.run(NEW, is_retryable=is_retryable) as run:
            ids[number] = run.id
            run.usage(tokens=7)
            await begun.wait()
            if number == 0:
                poison.do(run)
            else:
                run.progress(90, "nearly", number=number)
                run.result = {"number": number}

    async with asyncio.timeout(PATIENCE_S):
        errors = await asyncio.gather(*(work(number) for number in range(OTHERS + 1)), return_exceptions=True)
    assert [number for number, error in enumerate(errors) if error is not None] == [0]
    return ids


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
async def test_one_poisoned_run_of_many_fails_alone_and_with_its_own_code(
    either: Any, server: JobstateServer, poison: Poison
) -> None:
    if isinstance(either, Client):
        ids = await asyncio.to_thread(run_in_threads, either, poison)
    else:
        ids = await run_in_tasks(either, poison)

    jobs: dict[str, Job] = {job.id: job for job in server.client().list(page_size=100)}
    failed, others = jobs.pop(ids[0]), list(jobs.values())
    assert [(job.state, job.estimated_tokens) for job in others] == [(State.COMPLETED, 7)] * OTHERS
    assert all(job.result == job.metadata for job in others)
    assert failed.last_error is not None
    assert (failed.state, failed.last_error.code) == (State.PERMANENTLY_FAILED, poison.code)
    assert failed.last_error.message.startswith(poison.says)
    assert failed.estimated_tokens == 7
