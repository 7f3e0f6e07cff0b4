"""What tests of the client share."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from jobstate_client import Client

E = TypeVar("E", bound=BaseException)

PATIENCE_S = 60.0
"""How long a test waits for what must happen before it fails; nothing that works comes near."""


async def done(result: Any) -> Any:
    """What a method of either client returns."""
    if inspect.isawaitable(result):
        async with asyncio.timeout(PATIENCE_S):
            return await result
    return result


async def items(iterable: Any) -> list[Any]:
    """Everything that an iterable of either client yields."""
    if hasattr(iterable, "__aiter__"):
        async with asyncio.timeout(PATIENCE_S):
            return [item async for item in iterable]
    return list(iterable)


async def following(iterator: Any) -> Any:
    """The next item of an iterator of either client."""
    if hasattr(iterator, "__anext__"):
        async with asyncio.timeout(PATIENCE_S):
            return await anext(iterator)
    return next(iterator)


class Either:
    """An ``async with`` over a context manager of either client."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> Any:
        if hasattr(self._context, "__aenter__"):
            return await self._context.__aenter__()
        return self._context.__enter__()

    async def __aexit__(self, *failure: Any) -> Any:
        if hasattr(self._context, "__aexit__"):
            return await self._context.__aexit__(*failure)
        return self._context.__exit__(*failure)


@contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
    """Run this in a thread. Yields what waits for its result, or raises what it raised; the block's end waits too."""
    outcome: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "it takes too long"
        if failures:
            raise failures[0]
        return outcome[0]

    yield result
    result()


def raised(kind: type[E], work: Callable[[], Any]) -> E:
    """The exception of this kind that something raises."""
    with pytest.raises(kind) as caught:
        work()
    return caught.value


def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so that tells nobody when it is."""
    deadline, never = time.monotonic() + PATIENCE_S, threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "it does not come about"
        never.wait(0.001)


def log_of(client: Client, **filters: Any) -> list[int]:
    """The sequences of all events that the log holds."""
    return [event.sequence for event in client.watch(start="earliest", follow=False, **filters)]
