"""What a history says taken together: the log by job, what each stream should have had, each job replayed."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any

from .history import (
    ANSWERED,
    Acquiring,
    EventRecord,
    History,
    LogEntry,
    Policies,
    Policy,
    Stream,
    Watcher,
    delivered,
)

HOLDS = ""
"""What a validator yields for what is as promised."""

IN_HAND_S = 10.0
"""How long a transaction can be open whose call was given up: PostgreSQL ends it when its server has been frozen for
5 s, or waited for a lock for 3 s."""

CARRIED = ("metadata", "result")
"""Fields that an event carries only when its change set them."""


def is_group(entry: LogEntry) -> bool:
    """Whether the job is a group."""
    return "group" in entry.job


def claims(entry: LogEntry) -> bool:
    """Whether somebody takes the attempt with this event. Nobody takes that of a group, which the server runs."""
    if is_group(entry):
        return False
    return entry.event.type == "CLAIMED" or (entry.event.type == "STARTED" and bool(entry.job.get("claimed")))


def is_hand_out(entry: LogEntry) -> bool:
    """Whether an Acquire takes the attempt with this event."""
    return claims(entry) and "lease" in entry.job


def is_ready(entry: LogEntry) -> bool:
    """Whether a worker could claim the job after this event, by what the events say and not by its wait_reason.

    Only of needs it is said nowhere else: that it is said rightly is ``needs_met``.
    """
    job, event = entry.job, entry.event
    if event.type == "QUEUED":
        waits_for_needs = job.get("wait_reason") == "WAIT_REASON_NEEDS"
        is_delayed = microseconds(job["ready_time"]) > microseconds(job["create_time"])
        return not (waits_for_needs or is_delayed or is_group(entry))
    return event.type == "READY" or (event.state == "PROCESSING" and not job.get("claimed"))


def microseconds(text: str) -> int:
    """A Timestamp as JSON has it, since the epoch."""
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def span(text: str) -> int:
    """A Duration as JSON has it, such as 1.5s, in microseconds."""
    return round(float(text.removesuffix("s")) * 1_000_000)


def lane_of(entry: LogEntry) -> str:
    """The lane of a job."""
    return str(entry.job.get("lane", ""))


DEFAULT = Policy()
"""Of types that are not named."""


def _after(configured: tuple[int, list[Policies]]) -> int:
    return configured[0]


class World:
    """A history, indexed. Everything is computed when first asked for."""

    def __init__(self, history: History) -> None:
        self.history = history

    @cached_property
    def entries(self) -> dict[int, LogEntry]:
        """The log by sequence."""
        return {entry.event.sequence: entry for entry in self.history.log}

    @cached_property
    def by_job(self) -> dict[str, list[LogEntry]]:
        """The log by job, in order."""
        found: dict[str, list[LogEntry]] = defaultdict(list)
        for entry in self.history.log:
            found[entry.event.job_id].append(entry)
        return found

    @cached_property
    def sequences(self) -> list[int]:
        """Every sequence of the log."""
        return [entry.event.sequence for entry in self.history.log]

    @property
    def head(self) -> int:
        """The newest sequence."""
        return self.sequences[-1] if self.history.log else 0

    @cached_property
    def configured(self) -> list[tuple[int, list[Policies]]]:
        """After which event servers went by which policies."""
        later = [(each.after, each.policies) for each in self.history.configured]
        return [(-1, [self.history.policies]), *later]

    def stretch(self, sequence: int) -> int:
        """The number of the configuration at an event."""
        return bisect_left(self.configured, sequence, key=_after) - 1

    def policies(self, job_type: str, sequence: int) -> list[Policy]:
        """The policies of a type that servers went by at an event: mostly all by one."""
        _, some = self.configured[self.stretch(sequence)]
        return list(dict.fromkeys(each.get(job_type, DEFAULT) for each in some))

    def known_at(self, moment: float) -> int:
        """The newest sequence of which somebody knew before a moment."""
        return bisect_left(self.known_by, moment, 0, self.head + 1) - 1

    @cached_property
    def acquiring(self) -> dict[str, Acquiring]:
        """The calls of Acquire by their workers."""
        return {call.worker: call for call in self.history.acquires}

    @cached_property
    def hand_outs(self) -> dict[str, list[LogEntry]]:
        """The attempts that calls of Acquire have claimed, by their workers, in order."""
        found: dict[str, list[LogEntry]] = defaultdict(list)
        for entry in self.history.log:
            if is_hand_out(entry):
                found[entry.job.get("worker", "")].append(entry)
        return found

    @cached_property
    def created_by(self) -> dict[str, float]:
        """When the first call was made that was to create each job."""
        found: dict[str, float] = {}
        for call in self.history.calls:
            if call.rpc in {"Create", "BatchCreate"}:
                for job_id in call.job_ids or (call.job_id,):
                    found[job_id] = min(found.get(job_id, math.inf), call.invoked)
        return found

    @cached_property
    def ready_spans(self) -> list[tuple[LogEntry, LogEntry | None]]:
        """Each event that made a job ready, and the one after which it was no longer, or was with another attempt."""
        found: list[tuple[LogEntry, LogEntry | None]] = []
        for entries in self.by_job.values():
            since: LogEntry | None = None
            for entry in entries:
                goes_on = is_ready(entry)
                if since is not None and not (goes_on and entry.attempt == since.attempt):
                    found.append((since, entry))
                    since = None
                if goes_on and since is None:
                    since = entry
            if since is not None:
                found.append((since, None))
        return found

    @cached_property
    def known_by(self) -> list[float]:
        """For each sequence when somebody knew of it, or of a later event: it was made before that."""
        told = [math.inf] * (self.head + 2)
        for call in self.history.calls:
            if call.outcome == ANSWERED and 0 < call.version <= self.head:
                told[call.version] = min(told[call.version], call.returned)
        for _, _, stream in self.streams():
            for response in stream.responses:
                for event in response.events:
                    if event.sequence <= self.head:
                        told[event.sequence] = min(told[event.sequence], response.at)
        for acquiring in self.history.acquires:
            first = min((answer.returned for answer in acquiring.answers if answer.jobs), default=math.inf)
            for entry in self.hand_outs.get(acquiring.worker, ()):
                told[entry.event.sequence] = min(told[entry.event.sequence], first)
        for sequence in range(self.head - 1, -1, -1):
            told[sequence] = min(told[sequence], told[sequence + 1])
        return told

    @cached_property
    def not_before(self) -> list[float]:
        """For each sequence a moment at which it, or an event before it, had not been asked for: it was made later."""
        told = [-math.inf] * (self.head + 2)
        for call in self.history.calls:
            if call.outcome == ANSWERED and call.changes and 0 < call.version <= self.head:
                told[call.version] = max(told[call.version], call.invoked)
        for acquiring in self.history.acquires:
            for entry in self.hand_outs.get(acquiring.worker, ()):
                told[entry.event.sequence] = max(told[entry.event.sequence], acquiring.invoked)
        for sequence in range(1, self.head + 2):
            told[sequence] = max(told[sequence], told[sequence - 1])
        return told

    def position(self, cursor: str) -> int | None:
        """The sequence that a cursor stands for."""
        return self.history.positions.get(cursor)

    def between(self, after: int, through: int) -> list[LogEntry]:
        """The log after a sequence, up to another."""
        return self.history.log[bisect_right(self.sequences, after) : bisect_right(self.sequences, through)]

    def expected(self, watcher: Watcher, stream: Stream, after: int, through: int) -> list[EventRecord]:
        """What a stream must have been sent of a stretch of the log.

        Of what was erased later only what it asks for by anything that Erase leaves: source and labels may have been
        gone when the stream came to it. But what it passed before anybody called Erase, it was sent as it was.
        """
        passed = Passed(self, stream)
        return [
            entry.event
            for entry in self.between(after, through)
            if watcher.wants(entry.event, stream)
            and (entry.left is None or watcher.wants(entry.left, stream) or passed.before_it_was_erased(entry))
        ]

    def allowed(self, watcher: Watcher, stream: Stream, event: EventRecord) -> bool:
        """Whether a stream asks for an event of the log, as it was or as Erase has left it."""
        entry = self.entries.get(event.sequence)
        forms = () if entry is None else (entry.event, entry.left)
        return any(form is not None and watcher.wants(form, stream) for form in forms)

    @cached_property
    def first_erasing(self) -> dict[str, float]:
        """By job when somebody first called Erase for it, or for its source."""
        found: dict[str, float] = {}
        by_id: dict[str, float] = {}
        by_source: dict[str, float] = {}
        for erasing in self.history.erasings:
            some, name = (by_id, erasing.job_id) if erasing.job_id else (by_source, erasing.source_id)
            some[name] = min(some.get(name, math.inf), erasing.invoked)
        for job_id, entries in self.by_job.items():
            if any(entry.is_erased for entry in entries):
                moments = [by_source.get(entry.event.source_id, math.inf) for entry in entries]
                found[job_id] = min(*moments, by_id.get(job_id, math.inf), math.inf)
        return found

    def start(self, stream: Stream) -> int | None:
        """The position a stream began at; None when nothing tells."""
        if stream.start == "CURSOR":
            return self.position(stream.cursor)
        first = next((event.sequence - 1 for event in delivered(stream)), None)
        told = next((response.cursor for response in stream.responses if response.cursor), "")
        if stream.start == "EARLIEST":
            # Retention may have gone on since the stream was opened: what is still there now was there then.
            known = [self.history.horizon, self.position(told), first]
        else:
            # SYNCED, or a heartbeat that came while the log was searched before it.
            known = [self.position(told), first]
        return min((position for position in known if position is not None), default=None)

    def end(self, stream: Stream) -> int | None:
        """The furthest position a stream was told; None when it was told none."""
        told = [self.position(response.cursor) for response in stream.responses if response.cursor]
        return max((position for position in told if position is not None), default=None)

    def streams(self) -> Iterator[tuple[str, Watcher, Stream]]:
        """Every stream, its watcher, and a name for it."""
        for watcher in self.history.watchers:
            for index, stream in enumerate(watcher.streams):
                yield f"{watcher.name}/{index}", watcher, stream

    @cached_property
    def replayed(self) -> dict[str, dict[str, Any]]:
        """Every job as its events make it; jobs whose last event is ``.deleted`` are not there."""
        jobs: dict[str, dict[str, Any]] = {}
        for entry in self.history.log:
            job_id = entry.event.job_id
            if entry.event.type == "DELETED":
                jobs.pop(job_id, None)
            else:
                jobs[job_id] = folded(jobs.get(job_id), entry.job)
        return jobs


def folded(before: dict[str, Any] | None, job: dict[str, Any]) -> dict[str, Any]:
    """A job after an event, whose job leaves out what its change did not set."""
    kept = {name: before[name] for name in CARRIED if before and name in before}
    return {**kept, **job}


COUNTED_APART = {"members"}
"""Events have it as it was last written: that it is right in the end is ``summed``."""


def comparable(job: dict[str, Any] | None) -> dict[str, Any] | None:
    """A job without what may differ from its last event, or between an empty document and none."""
    if job is None:
        return None
    kept = {name: value for name, value in job.items() if name not in COUNTED_APART}
    return {name: value for name, value in kept.items() if not (name in CARRIED and not value)}


class Passed:
    """When a stream had come past each event, as its cursors tell."""

    def __init__(self, world: World, stream: Stream) -> None:
        self._world = world
        self._positions: list[int] = []
        self._moments: list[float] = []
        for response in stream.responses:
            position = world.position(response.cursor) if response.cursor else None
            if position is not None and (not self._positions or position > self._positions[-1]):
                self._positions.append(position)
                self._moments.append(response.at)

    def before_it_was_erased(self, entry: LogEntry) -> bool:
        """Whether it had come past an event before anybody called Erase for its job."""
        place = bisect_left(self._positions, entry.event.sequence)
        erasing = self._world.first_erasing.get(entry.event.job_id, math.inf)
        return place < len(self._moments) and self._moments[place] < erasing


class Superseding:
    """What the progress that was sent makes dispensable under LATEST."""

    def __init__(self, sent: Iterable[EventRecord], world: World) -> None:
        self._world = world
        self._newest: dict[tuple[str, bool], int] = {}
        for event in sent:
            if event.type == "PROGRESS":
                self._note(event.job_id, False, event.sequence)
                if event.metadata:
                    self._note(event.job_id, True, event.sequence)

    def _note(self, job_id: str, metadata: bool, sequence: int) -> None:
        key = job_id, metadata
        self._newest[key] = max(sequence, self._newest.get(key, 0))

    def covers(self, missing: EventRecord) -> bool:
        """Whether a later event that was sent takes the place of this one. Once it is erased it has no metadata."""
        later = self._newest.get((missing.job_id, missing.metadata), 0)
        if self._world.entries[missing.sequence].left is not None:
            later = max(later, self._newest.get((missing.job_id, False), 0))
        return missing.type == "PROGRESS" and later > missing.sequence
