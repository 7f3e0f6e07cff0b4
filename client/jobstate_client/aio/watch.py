"""A watch to iterate over, in asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from jobstate_client.aio.cancellation import is_cancelling
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.errors import ClientClosed, Unreachable

T = TypeVar("T")

_NOTHING: Any = object()


class AsyncWatch(Generic[T]):
    """An asynchronous iterator that resumes by itself after lost connections and restarts of the server.

    In an ``async with`` statement it is open when the block begins, and misses no change from then on. Otherwise it
    opens when the first item is requested. Waiting for an item may be cancelled, for example by ``asyncio.timeout``:
    nothing is lost, and the next request continues. After an error, it raises the same error again.
    """

    def __init__(self, open_stream: Callable[..., Any], session: WatchSession) -> None:
        self._session = session
        self._stream = _Stream(open_stream, session)
        self._items: Iterator[Any] = iter(())
        """The remaining items of the last response."""
        self._reading: asyncio.Task[Any] | None = None
        """Waits for the next response. It is a separate task because gRPC ends a call whose read is cancelled."""
        self._is_open = False
        self._failure: BaseException | None = None

    @property
    def cursor(self) -> str:
        """The position of this watch. A watch from here yields everything that this one has not.

        Read it after you have processed an item. A response may contain several events, and the cursor moves with the
        last of them: a watch from here may repeat a few events, but never misses one.
        """
        return self._session.cursor

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
        """End the watch, even while another task waits for its next item."""
        self._stream.close()

    def __del__(self) -> None:
        reading = self._reading
        if reading is not None and not reading.done():
            # Deleted while a read that was cancelled is still running. The garbage collector may run in any thread.
            loop = reading.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(reading.cancel)

    async def _fetch(self) -> bool:
        """Wait for the next response. Returns whether there is one."""
        if self._failure is not None:
            raise self._failure
        reading = self._reading
        if reading is None:
            self._reading = reading = asyncio.create_task(self._stream.read(), name="jobstate-watch")
            reading.add_done_callback(_retrieve_exception)
        await asyncio.wait({reading})
        if self._reading is not reading:
            # Another task waited for the same read, and has taken the response.
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
        self._items, self._is_open = self._session.items(response), True
        return True


def _retrieve_exception(reading: asyncio.Task[Any]) -> None:
    """Retrieve the exception of a read, so that asyncio does not log it when nobody reads on."""
    if not reading.cancelled():
        reading.exception()


class _Stream:
    """The calls of a watch, one after the other."""

    def __init__(self, open_stream: Callable[..., Any], session: WatchSession) -> None:
        self._open_stream = open_stream
        self._session = session
        self._closed = asyncio.Event()
        self._has_ended = False
        self._call: Any = None

    def close(self) -> None:
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    async def read(self) -> Any:
        """The next response; None at the end."""
        while not self._closed.is_set() and not self._has_ended:
            try:
                if self._call is None:
                    self._call = self._open_stream(self._session.next_request(), timeout=self._session.left_s())
                async with asyncio.timeout(self._session.silence_limit_s()):
                    response = await self._call.read()
            except TimeoutError:
                # The cancelled read has ended the call.
                self._call = None
                await self._pause(self._session.silence_error())
            except ClientClosed:
                # A watch ends when its client is closed.
                return None
            except grpc.RpcError as failure:
                self._call = None
                await self._pause(error_from_rpc(failure))
            except asyncio.CancelledError:
                self._call = None
                if is_cancelling():
                    raise
                # grpc.aio reports a cancelled call, or a closed channel, like the cancellation of a task.
                await self._pause(Unreachable("the call was cancelled", code=grpc.StatusCode.CANCELLED))
            else:
                self._session.message_received()
                if response is not grpc.aio.EOF:
                    return response
                self._has_ended, self._call = True, None
        return None

    async def _pause(self, error: Any) -> None:
        if self._closed.is_set():
            return
        try:
            async with asyncio.timeout(self._session.resume_delay_s(error)):
                await self._closed.wait()
        except TimeoutError:
            pass
