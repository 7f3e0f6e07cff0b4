"""What must be read before commands can be decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from jobstate_server.domain.filters import Position
from jobstate_server.domain.waiting import UniqueKey


class Due(NamedTuple):
    """Selects jobs and groups whose ``due_time`` has come, earliest first, without those another replica has locked.

    With a final job come open needs of it, and with a group that is stopping come unfinished members: at most
    ``limits.NEEDS_AT_ONCE`` and ``limits.MEMBERS_AT_ONCE`` altogether.
    """

    limit: int


class Finished(NamedTuple):
    """Selects jobs that ended before a time, earliest first, without those that another replica has locked."""

    before: int
    after: Position | None
    """The last job of the selection before this one. None for the first."""
    limit: int


class Named(NamedTuple):
    """Selects the jobs with these ids, in whatever state, without those that another replica has locked."""

    job_ids: tuple[str, ...]


class Ready(NamedTuple):
    """Selects ready jobs of some types, in the order in which they are handed out."""

    steps: tuple[tuple[str, int], ...]
    """The types, each with its priority_step."""
    limit: int


class StateOf(NamedTuple):
    """Selects what the hand-out of a type goes by: see ``turns.TypeState``."""

    job_type: str
    lanes_max: int
    """How many of the lanes that can be next are read, in the order of their turns."""
    under_way_max: int
    """Lanes with more under way are full."""
    holds_jobs: bool
    """Whether jobs hold their place in their lane until they are final."""
    is_limited: bool
    """Whether the policy limits the type, so that its counts are read even if it has no lanes."""
    lanes: frozenset[str] = frozenset()
    """Lanes that are read in any case."""
    ready_lanes: frozenset[str] = frozenset()
    """Lanes that are read if they have ready jobs."""


class LaneRange(NamedTuple):
    """Selects the first ready jobs of a lane."""

    job_type: str
    lane: str
    step: int
    """The priority_step of the type."""
    limit: int
    holds_jobs: bool
    """Whether jobs that come back go before all others."""
    is_all: bool = False
    """Whether the lane has no more ready jobs than these, as they are counted."""


class FoundPlace(NamedTuple):
    """A ready job that a LaneRange has found. It is neither read whole nor locked."""

    job_type: str
    lane: str
    score: int
    create_sequence: int
    job_id: str
    attempt: int


Selection = Due | Finished | Named
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
    recreated_ids: set[str] = field(default_factory=set)
    """Jobs among ``job_ids`` whose unique keys others may have now."""
    job_types: set[str] = field(default_factory=set)
    """Types of the jobs to create. The rules need to know whether these types ever had a job."""
    tasks: set[str] = field(default_factory=set)
    """Recurring entries of which instants may have their jobs already."""
