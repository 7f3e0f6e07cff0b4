"""Changes of all jobs that match a filter: what is done to each, and how far such a bulk run has come.

A bulk run is all calls with one request id. What it has done is stored with that request id, in the transaction that
did it. So nothing is done twice, whoever goes on with it and whenever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

from jobstate_server.domain.caller import ANONYMOUS, Caller
from jobstate_server.domain.commands import Command, JobCommand, Request
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.filters import JobFilter, Position
from jobstate_server.domain.job import FINAL_STATES, JobState
from jobstate_server.domain.reads import Reads
from jobstate_server.domain.values import value


class SkipReason(IntEnum):
    """Why a job that matched was not changed. The numbers are stored and are those of ``jobstate.v1.SkipReason``."""

    OTHER = 0
    STATE = 1
    GROUP = 2
    RETRIES = 3
    UNIQUE_KEY = 4
    JOB_TYPE = 5


_REASONS = {
    "TRANSITION_NOT_ALLOWED": SkipReason.STATE,
    "RETRY_NOT_ALLOWED": SkipReason.RETRIES,
    "UNKNOWN_JOB_TYPE": SkipReason.JOB_TYPE,
}


def reason_of(refusal: JobStateError) -> SkipReason:
    """Why the job of a refused command was not changed."""
    if refusal.facts.get("why") == "group":
        return SkipReason.GROUP
    return _REASONS.get(refusal.reason, SkipReason.OTHER)


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far a bulk run has come."""

    through: int
    """The newest creation that it looks at: jobs created since its first call are not among those it is to change."""
    after: Position | None = None
    """The last job that it has looked at, in the order of their creation. None before the first."""
    matched: int = 0
    done: int = 0
    skipped: Mapping[int, int] = field(default_factory=dict)
    """How many jobs that matched were not changed, by ``SkipReason``."""
    is_over: bool = False
    """Whether it has looked at all jobs."""

    def plus(self, done: int, skipped: Mapping[int, int]) -> BulkProgress:
        """After so many more jobs."""
        together = {
            reason: self.skipped.get(reason, 0) + skipped.get(reason, 0) for reason in sorted({*self.skipped, *skipped})
        }
        matched = self.matched + done + sum(skipped.values())
        return replace(self, matched=matched, done=self.done + done, skipped=together)


class MatchedJob(NamedTuple):
    """What a bulk run reads of a job before it is changed."""

    id: str
    create_time: int
    create_sequence: int
    state: JobState
    group_depth: int

    @property
    def position(self) -> Position:
        """Its place in the order of creation."""
        return Position(self.create_time, self.create_sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkChange:
    """What a call asks for."""

    wanted: JobFilter
    request: Request | None
    """None for a dry run."""
    limit: int
    """The most jobs to change."""
    may_change: frozenset[JobState]
    """States of the jobs that it can change."""
    takes_groups: bool
    command_for: Callable[[str], JobCommand]
    """Makes the command that changes the job with this id."""

    def would_skip(self, job: MatchedJob) -> SkipReason | None:
        """Why the job would not be changed, as far as this is known beforehand. None if it would be."""
        if job.group_depth and not self.takes_groups:
            return SkipReason.GROUP
        return None if job.state in self.may_change else SkipReason.STATE


UNFINISHED_STATES = frozenset(JobState) - FINAL_STATES


@value
class BeginBulkRun(Command):
    """Begin a bulk run, or learn how far it has come."""

    request: Request
    through: int
    """As in ``BulkProgress``, if it begins now."""
    caller: Caller = ANONYMOUS

    def add_reads(self, reads: Reads) -> None:
        reads.request_keys.add(self.request.key)


@value
class ChangeSome(Command):
    """Change the next jobs of a bulk run. Does nothing if somebody else has gone on with it."""

    request: Request
    before: BulkProgress
    """How far the run must have come."""
    wanted: JobFilter
    commands: tuple[JobCommand, ...]
    """Without request ids. Each is carried out only if its job still matches."""
    keys: tuple[int, ...]
    """The ``create_sequence`` of their jobs: another may have got the id since."""
    after: Position | None
    is_last: bool
    """Whether the run is over then."""
    caller: Caller = ANONYMOUS

    def add_reads(self, reads: Reads) -> None:
        reads.request_keys.add(self.request.key)
        for command in self.commands:
            command.add_reads(reads)


class BulkStep(NamedTuple):
    """What becomes of a bulk run in a transaction."""

    request: Request
    progress: BulkProgress | None
    """How far it has come, before these commands. None if its request id is not stored any more."""
    is_new: bool = False
    commands: tuple[JobCommand, ...] = ()
    acts: bool = False
    """Whether the run moves on."""
