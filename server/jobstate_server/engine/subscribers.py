"""Subscribers that are notified of something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Subscribers(Generic[P]):
    """Callables that are notified in the order in which they subscribed. Call it on the event loop's thread."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        """``on_error``: called within the ``except`` block when a subscriber raises. The others are still notified."""
        self._on_error = on_error
        self._subscribers: list[Callable[P, object]] = []

    def subscribe(self, subscriber: Callable[P, object]) -> None:
        """Notify ``subscriber`` from now on."""
        self._subscribers.append(subscriber)

    def notify(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call every subscriber."""
        for subscriber in self._subscribers:
            try:
                subscriber(*args, **kwargs)
            except Exception:
                self._on_error()
