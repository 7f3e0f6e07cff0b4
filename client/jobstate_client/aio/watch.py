"""A watch to iterate over, in asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.errors import ClientClosed, Unreachable

T = TypeVar("T")

_NOTHING: Any = object()


class AsyncWatch(Generic[T]):
    """An asynchronous iterator that resumes by itself, over lost connections and restarts of the server.

    Used in an ``async with`` statement it is open once the block begins: no change made from then on is missed.
    Otherwise it opens when the first item is asked for. Waiting for an item may be cancelled, by ``asyncio.timeout``
    for instance, without losing or ending anything: asked again, it goes on. After an error, it raises that again.
    """

    def __init__(self, open_stream: Callable[..., Any], course: WatchSession) -> None:
        self._course = course
        self._stream = _Stream(open_stream, course)
        self._items: Iterator[Any] = iter(())
        """What is left of the last answer."""
        self._reading: asyncio.Task[Any] | None = None
        """Waits for the next answer. A task of its own: gRPC ends the call whose reading is cancelled."""
        self._is_open = False
        self._failure: BaseException | None = None

    @property
    def cursor(self) -> str:
        """Where to go on: a watch from here tells everything that this one has not.

        Read it after having dealt with an item. Events come several at a time, and it moves with the last of them, so
        a watch from here may tell a few events again; it never leaves one out.
        """
        return self._course.cursor

    async def __aenter__(self) -> Self:
        try:
            if not self._is_open:
                await self._fetch()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._reading is not None:
            await asyncio.wait({self._reading})

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            try:
                item: T = next(self._items, _NOTHING)
            except Exception as failure:
                self._failure = failure
                self.close()
                raise
            if item is not _NOTHING:
                return item
            if not await self._fetch():
                raise StopAsyncIteration

    def close(self) -> None:
        """End the watch, also one that another task waits for."""
        self._stream.close()

    def __del__(self) -> None:
        reading = self._reading
        if reading is not None and not reading.done():
            # Forgotten while a read that was cancelled goes on. The collector may run in any thread.
            loop = reading.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(reading.cancel)

    async def _fetch(self) -> bool:
        """Wait for the next answer. Returns whether there is one."""
        if self._failure is not None:
            raise self._failure
        reading = self._reading
        if reading is None:
            self._reading = reading = asyncio.create_task(self._stream.read(), name="jobstate-watch")
            reading.add_done_callback(_note)
        await asyncio.wait({reading})
        if self._reading is not reading:
            # Another task waited too, and has taken it in.
            return True
        self._reading = None
        if reading.cancelled():
            return False
        self._failure = reading.exception()
        if self._failure is not None:
            raise self._failure
        response = reading.result()
        if response is None:
            return False
        self._items, self._is_open = self._course.take(response), True
        return True


def _note(reading: asyncio.Task[Any]) -> None:
    """Look at what a read raised, so that asyncio does not complain when nobody asks any more."""
    if not reading.cancelled():
        reading.exception()


class _Stream:
    """The calls that a watch is made of, one after the other."""

    def __init__(self, open_stream: Callable[..., Any], course: WatchSession) -> None:
        self._open_stream = open_stream
        self._course = course
        self._closed = asyncio.Event()
        self._has_ended = False
        self._call: Any = None

    def close(self) -> None:
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    async def read(self) -> Any:
        """The next answer, None at the end."""
        while not self._closed.is_set() and not self._has_ended:
            try:
                if self._call is None:
                    self._call = self._open_stream(self._course.request(), timeout=self._course.left_s())
                async with asyncio.timeout(self._course.silence_s()):
                    response = await self._call.read()
            except TimeoutError:
                # Cancelling the read has ended the call.
                self._call = None
                await self._pause(self._course.silent())
            except ClientClosed:
                # A watch that is under way ends with its client.
                return None
            except grpc.RpcError as failure:
                self._call = None
                await self._pause(error_from_rpc(failure))
            except asyncio.CancelledError:
                self._call = None
                if is_cancelling():
                    raise
                # grpc.aio tells the cancelling of a call, or the closing of its channel, like that of a task.
                await self._pause(Unreachable("the call was cancelled", code=grpc.StatusCode.CANCELLED))
            else:
                self._course.heard()
                if response is not grpc.aio.EOF:
                    return response
                self._has_ended, self._call = True, None
        return None

    async def _pause(self, error: Any) -> None:
        if self._closed.is_set():
            return
        try:
            async with asyncio.timeout(self._course.broken(error)):
                await self._closed.wait()
        except TimeoutError:
            pass


def is_cancelling() -> bool:
    """Whether the task at hand has been cancelled, and not only a call of gRPC's in it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
