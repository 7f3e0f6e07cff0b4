"""A watch to iterate over, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from jobstate_client.core.refusals import error_of
from jobstate_client.core.watching import Course

T = TypeVar("T")

_OPENED = object()


class Watch(Generic[T]):
    """An iterator that resumes by itself, over lost connections and restarts of the server.

    Used in a ``with`` statement it is open once the block begins: no change made from then on is missed. Otherwise it
    opens when the first item is asked for. It belongs to one thread; only ``close`` may be called from others.
    """

    def __init__(self, open_stream: Callable[..., Any], course: Course) -> None:
        self._open_stream = open_stream
        self._course = course
        self._closed = threading.Event()
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

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._items.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self._open()
        item: T = next(self._items)
        return item

    def close(self) -> None:
        """End the watch, also one that another thread waits for."""
        self._closed.set()
        call = self._call
        if call is not None:
            call.cancel()

    def _open(self) -> None:
        if not self._is_open:
            self._is_open = True
            next(self._items, None)

    def _run(self) -> Generator[Any, None, None]:
        """``_OPENED`` once the server has answered, then the items."""
        try:
            yield from self._follow()
        finally:
            # gRPC's call takes a lock when it is forgotten. At the interpreter's end that may be held for ever, by a
            # thread of gRPC's that was stopped: so it is forgotten now.
            self._call = None

    def _follow(self) -> Generator[Any, None, None]:
        told = False
        while not self._closed.is_set():
            try:
                self._call = call = self._open_stream(self._course.request(), timeout=self._course.left_s())
                if self._closed.is_set():
                    call.cancel()
                for response in call:
                    if not told:
                        told = True
                        yield _OPENED
                    yield from self._course.take(response)
            except grpc.RpcError as failure:
                if self._closed.is_set():
                    return
                wait = self._course.broken(error_of(failure))
            else:
                return
            self._closed.wait(wait)
