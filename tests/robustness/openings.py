"""When ready jobs could be handed out: while no limit, rate, hold or pause was in the way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterator
from typing import NamedTuple

from .history import LogEntry
from .lanes import OfType, Replay
from .pauses import Pauses
from .relations import Stops
from .world import DEFAULT, World, lane_of

LATE_US = 500_000
"""How much later than its time a lane is taken for open again: a server has to wake for it."""


class Opening(NamedTuple):
    """A stretch of the log in which a job could be handed out."""

    job: LogEntry
    """The event that made it ready."""
    since: LogEntry
    until: LogEntry | None
    """After this it is no longer sure."""


def open_spans(world: World) -> Iterator[Opening]:
    """All such stretches, of each ready job.

    A stretch begins with an event of the job's type, so it may begin late, and it ends where the servers begin to be
    configured anew, and where a pause may begin.
    """
    job_types = {entry.event.job_type for entry in world.history.log}
    policies = {name: [each.get(name, DEFAULT) for _, some in world.configured for each in some] for name in job_types}
    limited = {name for name, some in policies.items() if any(policy.is_limited for policy in some)}
    held = {entry.event.job_type for entry in world.history.log if "hold_lane" in entry.detail}
    shut = limited | held | Pauses(world).job_types
    stops = Stops(world)
    for ready, following in world.ready_spans:
        if ready.event.job_type not in shut:
            yield from _before_its_group_stops(world, stops, Opening(ready, ready, following))
    for opening in _Openings(world, shut).found():
        yield from _before_its_group_stops(world, stops, opening)


def _before_its_group_stops(world: World, stops: Stops, opening: Opening) -> Iterator[Opening]:
    """The part of such a stretch in which the group of the job is not stopping."""
    stopped = stops.since(opening.job)
    if stopped is None or (opening.until is not None and opening.until.event.sequence < stopped):
        yield opening
    elif opening.since.event.sequence < stopped:
        yield opening._replace(until=world.entries[stopped])


class _Openings:
    def __init__(self, world: World, job_types: set[str]) -> None:
        self._world = world
        self._job_types = job_types
        self._pauses = Pauses(world)
        self._replay = Replay(world)
        self._open: dict[str, dict[str, Opening]] = defaultdict(dict)
        """By type and job, those that can be handed out."""

    def found(self) -> Iterator[Opening]:
        stretch, latest = 0, None
        for entry in self._replay.events():
            if latest is not None:
                yield from self._changed(latest)
            latest = entry if entry.event.job_type in self._job_types else None
            if self._world.stretch(entry.event.sequence) != stretch:
                stretch = self._world.stretch(entry.event.sequence)
                for job_type in self._job_types:
                    yield from self._closed(job_type, set(), entry)
        if latest is not None:
            yield from self._changed(latest)
        for job_type in self._job_types:
            yield from self._closed(job_type, set(), None)

    def _changed(self, entry: LogEntry) -> Iterator[Opening]:
        """Look which jobs can be handed out after an event."""
        job_type = entry.event.job_type
        of_type = self._replay.types[job_type]
        now_open = {ready.event.job_id: ready for ready in self._open_jobs(job_type, of_type, entry)}
        yield from self._closed(job_type, now_open, entry)
        for job_id, ready in now_open.items():
            self._open[job_type].setdefault(job_id, Opening(ready, entry, None))

    def _open_jobs(self, job_type: str, of_type: OfType, entry: LogEntry) -> Iterator[LogEntry]:
        policies = self._world.policies(job_type, entry.event.sequence)
        (policy, *others) = policies
        now = entry.time - LATE_US
        has_room = not policy.concurrency or of_type.all.now.running < policy.concurrency
        if others or not has_room or of_type.all.opens(policy.rate) > now:
            return
        for name, lane in of_type.lanes.items():
            is_paused = self._pauses.perhaps(job_type, name, entry.event.sequence + 1)
            if lane.now.ready and lane.opens(policy.lane_rate) <= now and not is_paused:
                for ready in of_type.ready[name].values():
                    returns = policy.holds_jobs and ready.attempt > 0
                    if lane.now.has_place(policy, returns=returns):
                        yield ready

    def _closed(self, job_type: str, still: Container[str], entry: LogEntry | None) -> Iterator[Opening]:
        for job_id in [job_id for job_id in self._open[job_type] if job_id not in still]:
            opening = self._open[job_type].pop(job_id)
            lane, sequence = lane_of(opening.job), opening.since.event.sequence
            until = math.inf if entry is None else entry.event.sequence
            paused = self._pauses.first_within(job_type, lane, sequence, until)
            # The pause may have begun right after the last event before it.
            ended = entry if paused == until else self._world.entries.get(int(paused))
            if ended is None or ended.event.sequence > sequence:
                yield opening._replace(until=ended)
