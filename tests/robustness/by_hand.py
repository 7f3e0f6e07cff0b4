"""A promise to those who begin jobs by hand, over recorded histories: workers that acquire change nothing for them."""

from __future__ import annotations

from collections.abc import Iterator

from .history import REFUSED, Call, LogEntry
from .relations import Stops
from .world import HOLDS, World, is_ready

NEW_TYPES = {"READY", "RELEASED", "WAITING"}
"""Events that only those see who delay jobs, or release them."""


def by_hand(world: World) -> Iterator[str]:
    """P19: Start takes what is ready whatever waits for it, and jobs that ask for nothing new live as they always did.

    It is refused as ever: when the job was taken, or not there, at a moment of the call.
    """
    stops = Stops(world)
    for call in world.history.calls:
        if call.rpc == "Start" and call.outcome == REFUSED and call.reason == "TRANSITION_NOT_ALLOWED":
            yield HOLDS if _could_be_refused(world, stops, call) else f"{call}: the job was ready all the while"
    released = {call.job_id for call in world.history.calls if call.rpc == "Release" and call.outcome != REFUSED}
    for job_id, entries in world.by_job.items():
        handed = any("lease" in entry.job for entry in entries)
        is_new = {"delay_us", "needs"} & entries[0].job.get("metadata", {}).keys() or "start_within" in entries[0].job
        if not (handed or is_new or job_id in released):
            new = [entry for entry in entries if entry.event.type in NEW_TYPES or _has_expired(entry)]
            yield HOLDS if not new else f"{new[0]}: nobody has asked for this"


def _has_expired(entry: LogEntry) -> bool:
    return bool(entry.job.get("cancel_cause") == "CANCEL_CAUSE_EXPIRED")


def _could_be_refused(world: World, stops: Stops, call: Call) -> bool:
    """Whether the job may have been anything but ready at a moment of this call, or its group stopping."""
    entries = world.by_job.get(call.job_id, [])
    stopped = stops.since(entries[0]) if entries else None
    if stopped is not None and world.not_before[stopped] <= call.returned:
        return True
    for index, entry in enumerate(entries):
        following = entries[index + 1] if index + 1 < len(entries) else None
        began = world.not_before[entry.event.sequence] <= call.returned
        ended = following is not None and world.known_by[following.event.sequence] < call.invoked
        if not is_ready(entry) and began and not ended:
            return True
    return not entries
