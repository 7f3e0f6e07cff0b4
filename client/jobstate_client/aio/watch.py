"""A watch to iterate over, in asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from jobstate_client.core.refusals import error_of
from jobstate_client.core.watching import Course

T = TypeVar("T")

_OPENED = object()


class AsyncWatch(Generic[T]):
    """An asynchronous iterator that resumes by itself, over lost connections and restarts of the server.

    Used in an ``async with`` statement it is open once the block begins: no change made from then on is missed.
    Otherwise it opens when the first item is asked for.
    """

    def __init__(self, open_stream: Callable[..., Any], course: Course) -> None:
        self._open_stream = open_stream
        self._course = course
        self._closed = asyncio.Event()
        self._call: Any = None
        self._items = self._run()
        self._is_open = False

    @property
    def cursor(self) -> str:
        """Where to go on: a watch from here tells everything that this one has not.

        Read it after having dealt with an item. Events come several at a time, and it moves with the last of them, so
        a watch from here may tell a few events again; it never leaves one out.
        """
        return self._course.cursor

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await self._items.aclose()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        await self._open()
        item: T = await anext(self._items)
        return item

    def close(self) -> None:
        """End the watch, also one that another task waits for."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    async def _open(self) -> None:
        if not self._is_open:
            self._is_open = True
            await anext(self._items, None)

    async def _run(self) -> AsyncGenerator[Any, None]:
        """``_OPENED`` once the server has answered, then the items."""
        told = False
        while not self._closed.is_set():
            try:
                self._call = call = self._open_stream(self._course.request(), timeout=self._course.left_s())
                async for response in call:
                    if not told:
                        told = True
                        yield _OPENED
                    for item in self._course.take(response):
                        yield item
            except grpc.RpcError as failure:
                if self._closed.is_set():
                    return
                wait = self._course.broken(error_of(failure))
            except asyncio.CancelledError:
                # grpc.aio tells the cancelling of a call like that of a task.
                if self._closed.is_set() and not _is_cancelling():
                    return
                raise
            else:
                return
            await self._pause(wait)

    async def _pause(self, wait: float) -> None:
        try:
            async with asyncio.timeout(wait):
                await self._closed.wait()
        except TimeoutError:
            pass


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
