"""A queue that is fair between connections: who puts little does not wait behind all that another has put.

It is weighted fair queueing. Each connection is served at the same speed, and what would be finished first at that
speed comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

CONNECTIONS_KEPT = 4_096
"""Connections whose position is stored, at least, before those without an effect are removed."""

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of many connections. Those of one connection stay in order."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, int, T]] = []
        """A heap. Of each item: when it would be finished, its number, its cost, and the item."""
        self._numbers = count()
        self._now = 0.0
        """What each connection has been served so far, had it had something all the time."""
        self._finished: dict[str, float] = {}
        """When the last item of each connection would be finished."""
        self._kept = CONNECTIONS_KEPT

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[T]:
        """All items, in no order."""
        return (item for *_, item in self._items)

    def put(self, item: T, connection: str, cost: int) -> None:
        """Add an item. ``cost`` is what it takes to serve it, in any unit."""
        finished = max(self._now, self._finished.get(connection, 0.0)) + cost
        self._finished[connection] = finished
        heappush(self._items, (finished, next(self._numbers), cost, item))

    @property
    def first(self) -> T:
        """The item that ``take`` returns next. There must be one."""
        return self._items[0][3]

    def take(self) -> T:
        """Remove and return the first item. There must be one."""
        finished, _, cost, item = heappop(self._items)
        self._now = max(self._now + cost / len(self._finished), finished - cost)
        if not self._items:
            self._now = 0.0
            self._finished.clear()
        elif len(self._finished) > self._kept:
            self._finished = {name: at for name, at in self._finished.items() if at > self._now}
            self._kept = max(CONNECTIONS_KEPT, 2 * len(self._finished))
        return item
