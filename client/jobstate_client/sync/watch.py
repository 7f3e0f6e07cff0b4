"""A watch to iterate over, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.errors import ClientClosed
from jobstate_client.sync.timeouts import Timeout, Timeouts

T = TypeVar("T")

_NOTHING: Any = object()


class _Closing:
    """Whether a watch is closed. Unlike an Event, a signal handler may set it while its own thread waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Wait until it is set, or for this long: a signal that comes when the wait begins may not end it."""
        with self._changed:
            self._changed.wait_for(self.is_set, timeout_s)


class Watch(Generic[T]):
    """An iterator that resumes by itself after lost connections and restarts of the server.

    In a ``with`` statement it is open when the block begins, and misses no change from then on. Otherwise it opens when
    the first item is requested. It belongs to one thread; only ``close`` may be called from others. After an interrupt
    it continues; after an error, it raises the same error again.
    """

    def __init__(self, open_stream: Callable[..., Any], session: WatchSession, timeouts: Timeouts) -> None:
        self._open_stream = open_stream
        self._session = session
        self._timeouts = timeouts
        self._closed = _Closing()
        self._call: Any = None
        self._items: Iterator[Any] = iter(())
        """The remaining items of the last response."""
        self._is_open = False
        self._has_ended = False
        self._failure: Exception | None = None

    @property
    def cursor(self) -> str:
        """The position of this watch. A watch from here yields everything that this one has not.

        Read it after you have processed an item. A response may contain several events, and the cursor moves with the
        last of them: a watch from here may repeat a few events, but never misses one.
        """
        return self._session.cursor

    def __enter__(self) -> Self:
        try:
            if not self._is_open:
                self._fetch()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        # gRPC's call takes a lock when it is deleted. When the interpreter ends, a gRPC thread that was stopped may
        # hold that lock for ever, so the call is deleted now.
        self._call = None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            while True:
                item: T = next(self._items, _NOTHING)
                if item is not _NOTHING:
                    return item
                if not self._fetch():
                    break
        except Exception as failure:
            self._failure = failure
            self._drop()
            raise
        except BaseException:
            # Interrupted, perhaps in the middle of a response: continue from the cursor with another call.
            self._drop()
            raise
        raise StopIteration

    def close(self) -> None:
        """End the watch, even while another thread waits for its next item."""
        self._closed.set()
        call = self._call
        if call is not None:
            call.cancel()

    def _fetch(self) -> bool:
        """Wait for the next response. Returns whether there is one."""
        if self._failure is not None:
            raise self._failure
        wait: Timeout | None = None
        while not self._closed.is_set() and not self._has_ended:
            try:
                call = self._call or self._open()
                with self._timeouts.limit(call, self._session.silence_limit_s()) as wait:
                    response = next(call)
            except StopIteration:
                self._has_ended, self._call = True, None
            except ClientClosed:
                # A watch ends when its client is closed.
                self._closed.set()
            except grpc.RpcError as failure:
                self._call = None
                if not self._closed.is_set():
                    is_silent = wait is not None and wait.has_expired
                    error = self._session.silence_error() if is_silent else error_from_rpc(failure)
                    self._closed.wait(self._session.resume_delay_s(error))
            else:
                self._session.message_received()
                self._items, self._is_open = self._session.items(response), True
                return True
        return False

    def _open(self) -> Any:
        self._call = call = self._open_stream(self._session.next_request(), timeout=self._session.left_s())
        if self._closed.is_set():
            call.cancel()
        return call

    def _drop(self) -> None:
        call, self._call, self._items = self._call, None, iter(())
        if call is not None:
            call.cancel()
