"""A change of any length, made in batches: each is one call, which does all of its batch or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from jobstate_client.core.calls import Call
from jobstate_client.errors import JobStateError

T = TypeVar("T")

_INDEX = re.compile(r"\brequests\[(\d+)\]")
"""The place of an item in its batch, as the server names it."""


@dataclass(frozen=True, slots=True)
class Batches(Generic[T]):
    """The calls, one for each batch. They are built as they are made: a generator is read as it is needed."""

    calls: Iterable[Call[tuple[T, ...]]]


class Made(Generic[T]):
    """What the batches have made so far. An exception that leaves its block says so.

    A ``JobStateError`` has it as ``created``, and the places that it names are those in the whole. Any exception has a
    note with the number.
    """

    def __init__(self) -> None:
        self._items: list[T] = []

    @property
    def items(self) -> tuple[T, ...]:
        """All of them, in order."""
        return tuple(self._items)

    def add(self, items: Iterable[T]) -> None:
        """A batch has been made."""
        self._items += items

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not self._items:
            return
        BaseException.add_note(error, f"the first {len(self._items):,} jobs had been created before")
        if isinstance(error, JobStateError):
            error.created = cast(Any, self.items)
            _shift(error, len(self._items))


def _shift(error: JobStateError, by: int) -> None:
    def shifted(text: str) -> str:
        return _INDEX.sub(lambda found: f"requests[{int(found[1]) + by}]", text)

    error.message = shifted(error.message)
    error.args = (error.message, *error.args[1:])
    error.metadata = {key: shifted(value) if key == "field" else value for key, value in error.metadata.items()}
    error.violations = tuple((shifted(field), shifted(problem)) for field, problem in error.violations)


def split(items: Iterable[T], weights: Callable[[T], tuple[int, ...]], limits: tuple[int, ...]) -> Iterator[list[T]]:
    """The items in lists, in order, each as long as the limits allow.

    ``weights`` gives what an item takes of each limit. An item that exceeds one by itself is alone in its list.
    """
    batch: list[T] = []
    used = [0] * len(limits)
    for item in items:
        taken = weights(item)
        if batch and any(u + t > limit for u, t, limit in zip(used, taken, limits, strict=True)):
            yield batch
            batch, used = [], [0] * len(limits)
        batch.append(item)
        used = [u + t for u, t in zip(used, taken, strict=True)]
    if batch:
        yield batch
