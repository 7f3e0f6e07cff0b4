"""Until when a watch that ends with its jobs goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.job import Job
from jobstate_server.event_log.recent import LogEntry

_ENDING = frozenset({EventType.COMPLETED, EventType.PERMANENTLY_FAILED, EventType.CANCELLED, EventType.DELETED})


def with_ends(wanted: EventFilter) -> EventFilter:
    """The filter that passes the ends of the named jobs too, whether or not they are to be sent."""
    types = wanted.types and wanted.types | _ENDING
    return EventFilter(job_ids=wanted.job_ids, types=types, reach=wanted.reach)


class JobEnds:
    """The named jobs of a watch, and where in the log each of them ends once that is known."""

    def __init__(self, job_ids: Iterable[str]) -> None:
        self._job_ids = tuple(job_ids)
        self._ends: dict[str, int | None] = {}

    def look_at(self, found: Mapping[str, Job], head: int) -> None:
        """Take in the jobs as they are now. ``head``: the end of the log, read after them."""
        self._ends = dict.fromkeys(self._job_ids)
        for job_id in self._job_ids:
            job = found.get(job_id)
            if job is None:
                # Deleted: its last event is somewhere up to the head.
                self._ends[job_id] = head
            elif job.state.is_final:
                self._ends[job_id] = job.version

    def note(self, entries: Iterable[LogEntry]) -> None:
        """Take in what happened since."""
        for entry in entries:
            event = entry.event
            if event.type in _ENDING and event.job_id in self._ends:
                self._ends[event.job_id] = event.sequence

    def are_over(self, position: int) -> bool:
        """Whether every job has ended at or before a position."""
        return all(end is not None and end <= position for end in self._ends.values())
