"""The promises about what operators ask for, one validator each, by the names under which a run tells of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .erasures import erased
from .findings import found
from .recreations import in_bulk, recreated
from .recurrences import recurred
from .world import World

OPERATORS: dict[str, Callable[[World], Iterator[str]]] = {
    "recreated": recreated,
    "in_bulk": in_bulk,
    "erased": erased,
    "recurred": recurred,
    "found": found,
}
"""That a watch by label has the events of the jobs with that label, and no others, is ``reliable``."""
