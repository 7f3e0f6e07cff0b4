"""Promises about Erase over recorded histories, and what it does to the lanes of the jobs that it erases."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from .history import ANSWERED, FINAL_STATES, REFUSED, UNKNOWN, Erasing, LogEntry, delivered
from .world import HOLDS, IN_HAND_S, World, lane_of

EVENT_KEEPS = {"sequence", "type", "name", "time", "previous_state", "job", "erased"}

JOB_KEEPS = {"id", "job_type", "state", "version", "update_time"}


def erased(world: World) -> Iterator[str]:
    """Of an erased event its order, type, time and states stay, and no text; only what ended and was asked for is.

    And all of it: when Erase has answered, nothing of the job is left in the log, nor does a watch that is opened from
    then on get anything of it. That cursors stay good is ``told``.
    """
    for entry in world.history.log:
        if entry.is_erased:
            yield _wrong_remains(entry)
            yield _unasked(world, entry)
    for erasing in world.history.erasings:
        yield from _left_over(world, erasing)
    yield from _told_later(world)


def _wrong_remains(entry: LogEntry) -> str:
    """What an erased event says beside what it may, or otherwise than before."""
    told, event = entry.remains, entry.left or entry.event
    job = told["job"]
    much = sorted((told.keys() - EVENT_KEEPS) | (job.keys() - JOB_KEEPS))
    before = entry.event
    same = [
        (each.sequence, each.type, each.job_id, each.job_type, each.version, each.state) for each in (event, before)
    ]
    holds = (
        not much
        and told.get("erased") is True
        and same[0] == same[1]
        and told.get("previous_state", "").removeprefix("JOB_STATE_") == entry.previous
        and not (event.source_id or event.labels or event.metadata)
        and all(job[name] == entry.job.get(name) for name in job.keys() - {"state"})
    )
    return HOLDS if holds else f"{entry} is left with {much} as {told}"


def _covers(world: World, erasing: Erasing, job_id: str) -> bool:
    """Whether a call asks for a job, and was not refused as a whole."""
    if erasing.outcome == REFUSED and erasing.tries == 1:
        return False
    sources = {entry.event.source_id for entry in world.by_job[job_id]}
    return erasing.job_id == job_id or bool(erasing.source_id and erasing.source_id in sources)


def _unasked(world: World, entry: LogEntry) -> str:
    job_id = entry.event.job_id
    asked = [erasing for erasing in world.history.erasings if _covers(world, erasing, job_id)]
    last = world.by_job[job_id][-1]
    gone = last.event.type == "DELETED" and last.previous in FINAL_STATES
    return HOLDS if asked and gone else f"{entry}: nobody has asked for this, or it was not over: {last}"


def _left_over(world: World, erasing: Erasing) -> Iterator[str]:
    """What is in the log that an answered call should have erased. With unfinished jobs it is not known which."""
    if erasing.outcome != ANSWERED or erasing.unfinished:
        return
    known = world.known_at(erasing.invoked)
    if erasing.job_id:
        wanted = [erasing.job_id] if erasing.job_id in world.by_job else []
    else:
        wanted = [
            some[0].event.job_id for some in world.by_job.values() if some[0].event.source_id == erasing.source_id
        ]
    for job_id in wanted:
        for entry in world.by_job[job_id]:
            # What retention has removed meanwhile may have been gone when it was looked for.
            if world.history.horizon < entry.event.sequence <= known:
                yield HOLDS if entry.is_erased else f"{erasing} has left {entry}"


def _told_later(world: World) -> Iterator[str]:
    over: dict[str, float] = {}
    for name, _, stream in world.streams():
        for event in delivered(stream):
            entry = world.entries.get(event.sequence)
            if entry is None or entry.left is None or event.erased:
                continue
            if event.job_id not in over:
                over[event.job_id] = _erased_by(world, event.job_id)
            late = stream.opened > over[event.job_id]
            yield f"{name}, opened after {event.job_id} was erased, was sent {event}" if late else HOLDS


def _erased_by(world: World, job_id: str) -> float:
    """When a job was surely erased: once all calls that asked for it were over, of which the last was answered."""
    deleted = next(entry for entry in world.by_job[job_id] if entry.event.type == "DELETED").event
    found = [erasing for erasing in world.history.erasings if _covers(world, erasing, job_id)]
    ends = [(each.returned + (IN_HAND_S if each.outcome == UNKNOWN else 0.0), each) for each in found]
    moment, last = max(ends, key=lambda end: end[0], default=(math.inf, Erasing()))
    # What was deleted otherwise while all of a source was erased may have been looked for before that.
    is_sure = last.job_id or deleted.erased or deleted.sequence <= world.known_at(last.invoked)
    return moment if last.outcome == ANSWERED and is_sure else math.inf


class ForgottenLanes:
    """When Erase may have forgotten the turns, rates and holds of lanes, which were those of erased jobs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._spans: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        for entries in world.by_job.values():
            if entries[0].is_erased:
                key = entries[0].event.job_type, lane_of(entries[0])
                self._spans[key] += self._of_job(entries[0].event.job_id)
        for spans in self._spans.values():
            spans.sort()

    def _of_job(self, job_id: str) -> Iterator[tuple[int, float]]:
        for erasing in self._world.history.erasings:
            if _covers(self._world, erasing, job_id):
                yield self._world.known_at(erasing.invoked), erasing.returned + IN_HAND_S

    def perhaps(self, job_type: str, lane: str, sequence: int) -> bool:
        """Whether a lane may just be forgotten at an event."""
        spans = self._spans.get((job_type, lane), ())
        return any(since <= sequence and self._world.not_before[sequence] <= until for since, until in spans)

    def count(self, job_type: str, lane: str, sequence: int) -> int:
        """How often a lane may have begun to be forgotten before an event."""
        return sum(since < sequence for since, _ in self._spans.get((job_type, lane), ()))
