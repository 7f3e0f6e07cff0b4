"""What a history says taken together: the log by job, what each stream should have had, each job replayed."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from .history import EventRecord, History, LogEntry, Stream, Watcher, delivered

HOLDS = ""
"""What a validator yields for what is as promised."""

CARRIED = ("metadata", "result")
"""Fields that an event carries only when its change set them."""


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

    def position(self, cursor: str) -> int | None:
        """The sequence that a cursor stands for."""
        return self.history.positions.get(cursor)

    def between(self, after: int, through: int) -> list[LogEntry]:
        """The log after a sequence, up to another."""
        return self.history.log[bisect_right(self.sequences, after) : bisect_right(self.sequences, through)]

    def expected(self, watcher: Watcher, stream: Stream, after: int, through: int) -> list[EventRecord]:
        """What a stream should have been sent of a stretch of the log."""
        return [entry.event for entry in self.between(after, through) if watcher.wants(entry.event, stream)]

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


def comparable(job: dict[str, Any] | None) -> dict[str, Any] | None:
    """A job without the difference between an empty document and none."""
    return job and {name: value for name, value in job.items() if not (name in CARRIED and not value)}


class Superseding:
    """What the progress that was sent makes dispensable under LATEST."""

    def __init__(self, sent: Iterable[EventRecord]) -> None:
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
        """Whether a later event that was sent takes the place of this one."""
        later = self._newest.get((missing.job_id, missing.metadata), 0)
        return missing.type == "PROGRESS" and later > missing.sequence
