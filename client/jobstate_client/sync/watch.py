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


class Watch(Generic[T]):
    """An iterator that resumes by itself, over lost connections and restarts of the server.

    Used in a ``with`` statement it is open once the block begins: no change made from then on is missed. Otherwise it
    opens when the first item is asked for. It belongs to one thread; only ``close`` may be called from others. Asked
    for more after an interrupt, it goes on; after an error, it raises that again.
    """

    def __init__(self, open_stream: Callable[..., Any], course: WatchSession, silence: Timeouts) -> None:
        self._open_stream = open_stream
        self._course = course
        self._silence = silence
        self._closed = threading.Event()
        self._call: Any = None
        self._items: Iterator[Any] = iter(())
        """What is left of the last answer."""
        self._is_open = False
        self._has_ended = False
        self._failure: Exception | None = None

    @property
    def cursor(self) -> str:
        """Where to go on: a watch from here tells everything that this one has not.

        Read it after having dealt with an item. Events come several at a time, and it moves with the last of them, so
        a watch from here may tell a few events again; it never leaves one out.
        """
        return self._course.cursor

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
        # gRPC's call takes a lock when it is forgotten. At the interpreter's end that may be held for ever, by a
        # thread of gRPC's that was stopped: so it is forgotten now.
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
            # Interrupted, perhaps in the middle of an answer: it goes on from the cursor, on another call.
            self._drop()
            raise
        raise StopIteration

    def close(self) -> None:
        """End the watch, also one that another thread waits for."""
        self._closed.set()
        call = self._call
        if call is not None:
            call.cancel()

    def _fetch(self) -> bool:
        """Wait for the next answer. Returns whether there is one."""
        if self._failure is not None:
            raise self._failure
        wait: Timeout | None = None
        while not self._closed.is_set() and not self._has_ended:
            try:
                call = self._call or self._open()
                with self._silence.limited(call, self._course.silence_s()) as wait:
                    response = next(call)
            except StopIteration:
                self._has_ended, self._call = True, None
            except ClientClosed:
                # A watch that is under way ends with its client.
                self._closed.set()
            except grpc.RpcError as failure:
                self._call = None
                if not self._closed.is_set():
                    is_silent = wait is not None and wait.is_over
                    error = self._course.silent() if is_silent else error_from_rpc(failure)
                    self._closed.wait(self._course.broken(error))
            else:
                self._course.heard()
                self._items, self._is_open = self._course.take(response), True
                return True
        return False

    def _open(self) -> Any:
        self._call = call = self._open_stream(self._course.request(), timeout=self._course.left_s())
        if self._closed.is_set():
            call.cancel()
        return call

    def _drop(self) -> None:
        call, self._call, self._items = self._call, None, iter(())
        if call is not None:
            call.cancel()
