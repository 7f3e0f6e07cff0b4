"""What must be read before commands can be decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from jobstate_server.domain.filters import Position
from jobstate_server.domain.waiting import UniqueKey


class Due(NamedTuple):
    """Selects jobs whose ``due_time`` has come, earliest first, without those that another replica has locked."""

    limit: int


class Finished(NamedTuple):
    """Selects jobs that ended before a time, earliest first, without those that another replica has locked."""

    before: int
    after: Position | None
    """The last job of the selection before this one. None for the first."""
    limit: int


class Ready(NamedTuple):
    """Selects ready jobs of some types, in the order in which they are handed out."""

    steps: tuple[tuple[str, int], ...]
    """The types, each with its priority_step."""
    limit: int


Selection = Due | Finished
"""Selects jobs by a condition instead of by their ids."""


@dataclass(slots=True)
class Reads:
    """What a batch of commands reads. Every command adds its part, and the store reads everything at once."""

    job_ids: set[str] = field(default_factory=set)
    request_keys: set[tuple[str, str]] = field(default_factory=set)
    """Principals and request ids that may have been used before."""
    attempt_keys: set[tuple[str, int]] = field(default_factory=set)
    """Ended attempts, by job and number."""
    selections: set[Selection] = field(default_factory=set)
    unique_keys: set[UniqueKey] = field(default_factory=set)
    """Unique keys that a job may have."""
    job_types: set[str] = field(default_factory=set)
    """Types of the jobs to create. The rules need to know whether these types ever had a job."""
