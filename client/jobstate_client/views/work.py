"""What waits and what runs, as the statistics of a server that hands out jobs tell it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from jobstate_client.core.states import State, WaitReason

if TYPE_CHECKING:
    from jobstate_client.core.inspection import TypeStats


@dataclass(frozen=True, slots=True)
class Work:
    """The jobs of one type, or of all, by what happens to them."""

    waiting: int
    """Jobs that wait for a worker: QUEUED and not delayed, or due for another attempt."""
    oldest_ready_time: datetime | None
    """Since when the first of them has been waiting."""
    delayed: int
    """QUEUED jobs that are delayed."""
    for_needs: int
    """Jobs that wait for others which they need."""
    running: int
    """Attempts that workers have now."""
    released: int
    """Attempts that have been given back since the store was created."""
    expired: int
    """Jobs that nobody began in time, since the store was created."""


def work_of(stats: TypeStats) -> Work | None:
    """What the statistics tell of work; None from a server that does not hand out jobs."""
    retrying = stats.stored.get(State.RETRYING, 0)
    for_time = stats.waiting.get(WaitReason.TIME, 0)
    waiting = stats.waiting.get(WaitReason.TURN, 0)
    unfinished = stats.stored.get(State.QUEUED, 0) + stats.stored.get(State.PROCESSING, 0)
    if unfinished and not (stats.waiting or stats.running):
        # An older server, which does not say what they do. One that does always says how many wait for their turn.
        return None
    # Retries wait for their time too.
    delayed = max(0, for_time - retrying)
    for_needs = stats.waiting.get(WaitReason.NEEDS, 0)
    return Work(waiting, stats.oldest_ready_time, delayed, for_needs, stats.running, stats.released, stats.expired)
