"""The promises about dispatch, one validator each, by the names under which a run tells of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .by_hand import by_hand
from .hand_out_order import aged, in_turn
from .hand_outs import handed_once, repeatable
from .keys import alone
from .limits import within_limits, within_rates
from .pauses import paused
from .releases import released
from .turns import by_turns
from .waiting import conserved, not_early
from .world import World

DISPATCH: dict[str, Callable[[World], Iterator[str]]] = {
    "handed_once": handed_once,
    "in_turn": in_turn,
    "aged": aged,
    "by_turns": by_turns,
    "within_limits": within_limits,
    "within_rates": within_rates,
    "paused": paused,
    "not_early": not_early,
    "repeatable": repeatable,
    "released": released,
    "conserved": conserved,
    "by_hand": by_hand,
    "alone": alone,
}
"""That counts are right is ``tallied``, for dispatch as for all else."""
