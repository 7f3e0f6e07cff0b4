"""How many places are read before a batch is decided."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


class Enough:
    """How many places are read before a batch is decided that is to end some attempts.

    A command that is to end an attempt may be refused. Then its lane is as far back in the order as it is stored to be,
    and its places may go to others. So places count only of lanes in which no attempt is to end, and each refused
    command sends back one place at most.
    """

    def __init__(self, wanted: int, most: int, unsure: Container[tuple[str, str]]) -> None:
        """
        Args:
            wanted: how many places are enough of those that are certain.
            most: how many are enough in all.
            unsure: the types and lanes in which an attempt is to end.
        """
        self._wanted = wanted
        self._most = most
        self._unsure = unsure

    def of(self, places: Iterable[_T], lane_of: Callable[[_T], tuple[str, str]]) -> Iterator[_T]:
        """As many of these places, in their order, as are enough."""
        if self._most == self._wanted:
            return islice(places, self._wanted)
        return self._counted(places, lane_of)

    def _counted(self, places: Iterable[_T], lane_of: Callable[[_T], tuple[str, str]]) -> Iterator[_T]:
        certain = 0
        for place in islice(places, self._most):
            yield place
            certain += lane_of(place) not in self._unsure
            if certain == self._wanted:
                return
