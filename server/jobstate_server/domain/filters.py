"""Which jobs and events a reader wants: OR within a field, AND between fields; an empty field asks for nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

from jobstate_server.domain.events import EventType
from jobstate_server.domain.job import JobState


class Order(IntEnum):
    """Order of a list of jobs. Equal times are ordered by id, the same way round."""

    NEWEST_FIRST = 1
    OLDEST_FIRST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list. ``principal`` None sees every principal's."""

    job_ids: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    job_types: tuple[str, ...] = ()
    source_ids: tuple[str, ...] = ()
    create_time_from: int | None = None
    """Inclusive."""
    create_time_to: int | None = None
    """Exclusive."""
    principal: str | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page of jobs ended: the next one begins right after."""

    create_time: int
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to watch. ``principal`` None sees every principal's."""

    job_ids: frozenset[str] = frozenset()
    job_types: frozenset[str] = frozenset()
    source_ids: frozenset[str] = frozenset()
    types: frozenset[EventType] = frozenset()
    principal: str | None = None

    @property
    def passes_all(self) -> bool:
        """Whether this filter drops nothing."""
        return self == _EVERYTHING

    def passes(self, job_id: str, job_type: str, source_id: str, type_: int, principal: str) -> bool:
        """Whether an event with these properties is wanted."""
        return (
            _wants(self.job_ids, job_id)
            and _wants(self.job_types, job_type)
            and _wants(self.source_ids, source_id)
            and _wants(self.types, type_)
            and (self.principal is None or self.principal == principal)
        )


def _wants(wanted: Collection[object], value: object) -> bool:
    return not wanted or value in wanted


_EVERYTHING = EventFilter()
