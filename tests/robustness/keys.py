"""A promise about unique keys over recorded histories."""

from __future__ import annotations

from collections.abc import Iterator

from .history import FINAL_STATES
from .world import HOLDS, World

UNTIL_STARTED = "started"
"""Of a run the keys that begin so are kept until the first attempt begins, all others until the job ends."""


def alone(world: World) -> Iterator[str]:
    """Of one type and unique key there is one job at a time."""
    holders: dict[tuple[str, str], str] = {}
    for entry in world.history.log:
        key = entry.event.job_type, entry.job.get("unique_key", "")
        if entry.event.type == "QUEUED" and key[1]:
            holder = holders.setdefault(key, entry.event.job_id)
            yield HOLDS if holder == entry.event.job_id else f"{entry}: {holder} has the key {key}"
        is_free = entry.event.state in FINAL_STATES or (entry.attempt > 0 and key[1].startswith(UNTIL_STARTED))
        if is_free and holders.get(key) == entry.event.job_id:
            del holders[key]
