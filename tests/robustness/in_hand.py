"""What a replica may not see, or not have, of what is ready: others have it in hand, or it was made ready just now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from .history import UNKNOWN, Acquiring, Bulk, Erasing, LogEntry
from .world import IN_HAND_S, World

LOOKED_AT_S = 1.0
"""How long the transaction of a due timer is open. When it meets a job that another replica's timer has just made
ready, PostgreSQL locks the row for it as it is now, although the job is no longer due."""

SEEN_LATE_S = 7.0
"""What a replica made ready with an early place, others see 5 s late."""

LATE_US = 1_000_000
"""How much earlier than its event a ready_time is that counts as early."""


class InHand:
    """What hand-outs on a store that is shared may miss."""

    def __init__(self, world: World) -> None:
        self._world = world

    def may_be_missed(self, made_ready: LogEntry, ready_time: int, entry: LogEntry, acquiring: Acquiring) -> bool:
        """Whether a job may be passed over at a hand-out.

        Args:
            made_ready: the event that made it ready.
            entry: the hand-out, to ``acquiring``.
        """
        known = self._world.known_by[made_ready.event.sequence]
        is_late = made_ready.time - ready_time > LATE_US
        if known + (SEEN_LATE_S if is_late else 0.0) >= acquiring.invoked:
            return True
        if self._is_beside(self._calls.get(made_ready.event.job_id, ()), entry, acquiring):
            return True
        # A due timer had it in hand: that of another replica than made it ready, or before it expired.
        if made_ready.actor == "server" and known + LOOKED_AT_S >= acquiring.invoked:
            return True
        following = next(e for e in [*self._world.by_job[made_ready.event.job_id], entry] if _is_after(e, made_ready))
        return following.actor == "server" and following.event.type == "CANCELLED"

    def may_be_lost(self, made_ready: LogEntry, entry: LogEntry, acquiring: Acquiring) -> bool:
        """Whether a call whose answer nobody got may have had a job in hand at a hand-out, and never kept it."""
        return self._is_beside(self._lost_acquires.get(made_ready.event.job_type, ()), entry, acquiring)

    def _is_beside(self, windows: Sequence[tuple[float, float]], entry: LogEntry, acquiring: Acquiring) -> bool:
        """Whether one of these calls was under way between an Acquire and its hand-out."""
        until = self._world.known_by[entry.event.sequence]
        return any(began <= until and ended >= acquiring.invoked for began, ended in windows)

    @cached_property
    def _lost_acquires(self) -> dict[str, list[tuple[float, float]]]:
        """When each type was asked for by a call whose answer nobody got: its server was frozen or killed."""
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for acquiring in self._world.history.acquires:
            if acquiring.outcome == UNKNOWN:
                for job_type in acquiring.job_types:
                    found[job_type].append((acquiring.invoked, acquiring.returned + IN_HAND_S))
        return found

    @cached_property
    def _calls(self) -> dict[str, list[tuple[float, float]]]:
        """When calls that name a job may have had its row in hand."""
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for call in self._world.history.calls:
            is_over = call.outcome != UNKNOWN and call.tries == 1
            ended = call.returned + (0.0 if is_over else IN_HAND_S)
            for job_id in (*(call.job_ids or (call.job_id,)), *call.names):
                found[job_id].append((call.invoked, ended))
        runs: list[Bulk | Erasing] = [*self._world.history.bulks, *self._world.history.erasings]
        for job_id, entries in self._world.by_job.items():
            found[job_id] += [(run.invoked, run.returned + IN_HAND_S) for run in runs if _may_look_at(run, entries[0])]
        for acquiring in self._world.history.acquires:
            if acquiring.tries > 1 or acquiring.outcome == UNKNOWN:
                for entry in self._world.hand_outs.get(acquiring.worker, ()):
                    found[entry.event.job_id].append((acquiring.invoked, acquiring.returned + IN_HAND_S))
        return found


def _may_look_at(run: Bulk | Erasing, entry: LogEntry) -> bool:
    """Whether a run over many jobs may have had this one in hand, if only to find that it is not for it."""
    if isinstance(run, Erasing):
        return entry.event.job_id == run.job_id or bool(run.source_id and entry.event.source_id == run.source_id)
    return run.rpc != "RecreateMany" and run.fits(entry)


def _is_after(entry: LogEntry, place: LogEntry) -> bool:
    return entry.event.sequence > place.event.sequence
