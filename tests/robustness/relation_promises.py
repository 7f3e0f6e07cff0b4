"""The promises about needs and groups, one validator each, by the names under which a run tells of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .groups import ends_last, stopped, summed
from .needs import needs_met, resolved
from .world import World

RELATIONS: dict[str, Callable[[World], Iterator[str]]] = {
    "needs_met": needs_met,
    "resolved": resolved,
    "ends_last": ends_last,
    "stopped": stopped,
    "summed": summed,
}
"""The first two are P12, the others P13."""
