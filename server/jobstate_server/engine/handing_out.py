"""What one batch can hand out, and what it has handed out."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from jobstate_server.domain.dispatch_order import ReadyJobs
from jobstate_server.domain.job import Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.lane_moves import LaneMoves
from jobstate_server.domain.lanes import LaneCounts, counts_of
from jobstate_server.domain.turns import LaneState, TypeState
from jobstate_server.domain.waiting import is_ready, is_running


class HandingOut:
    """The ready jobs of a batch. Those of types that nobody asks for are not remembered."""

    def __init__(self, job_types: JobTypes, wanted_types: Container[str], jobs: Mapping[str, Job], now: int) -> None:
        """
        Args:
            jobs: the jobs of the batch, as they are now.
            now: the time of the transaction.
        """
        self.handed_out = 0
        """How many attempts workers have claimed in this batch."""
        self.turns: set[str] | None = None
        """The types that this transaction may hand out. None if there are no other replicas to take turns with."""
        self.moves = LaneMoves(job_types)
        self.acquired: set[tuple[str, str]] = set()
        """The types and lanes of which jobs were handed out."""
        self.freed: set[str] = set()
        """The types of which a job gave up its place, if that may allow another to be handed out."""
        self.picked: set[str] = set()
        """The types of which ready jobs of the store have been picked."""
        self.outdated: set[str] = set()
        """Of these, those of which a lane was closed, or opened, since. Others may have their turn instead."""
        self._ready = ReadyJobs(job_types, self.moves)
        self._job_types = job_types
        self._wanted_types = wanted_types
        self._jobs = jobs
        self._now = now

    def know(self, states: Iterable[TypeState]) -> None:
        """What is stored of these types."""
        for state in states:
            self._ready.know(state)

    def count_changes(self, job_types: Iterable[str]) -> None:
        """Add up the changes of these types, although they may have neither limits nor lanes."""
        for name in job_types:
            self.moves.of_type(name)

    def state(self, job_type: str) -> TypeState | None:
        """What is stored of a type, if it was read."""
        return self._ready.state(job_type)

    def unknown_lanes(self, job_types: Iterable[str]) -> dict[str, set[str]]:
        """The lanes with ready jobs of which must be read what is stored, by type."""
        unknown = {name: self._ready.unknown_lanes(name) for name in job_types}
        return {name: lanes for name, lanes in unknown.items() if lanes}

    def has_picked(self, job_types: Iterable[str]) -> set[str]:
        """The ids of all jobs of these types that were ready at any time in this batch."""
        return {job_id for name in job_types for job_id in self._ready.job_ids(name)}

    def add(self, job: Job) -> None:
        """Add a ready job that the store found."""
        self._ready.add(job)

    def note(self, before: Job | None, after: Job) -> None:
        """Note a change: the job may have become ready, or may have been handed out."""
        if self.moves.counts(after):
            self._count(before, after)
        is_wanted = after.job_type in self._wanted_types
        if is_ready(after):
            if is_wanted and (before is None or not is_ready(before) or before.attempt != after.attempt):
                self._ready.add(after)
        elif is_running(after) and not (before is not None and is_running(before)):
            self.handed_out += is_wanted
            if after.lease is not None:
                self.acquired.add((after.job_type, after.lane))

    def must_note(self, job: Job) -> bool:
        """Whether changes of this job concern anybody: those who ask for its type, or its lane."""
        job_type = job.job_type
        return bool(job.lane) or job_type not in self.moves.plain or job_type in self._wanted_types

    def _count(self, before: Job | None, after: Job) -> None:
        """Count a change of a job of a type that has limits or lanes."""
        counted, counts = counts_of(before), counts_of(after)
        if counts.running > counted.running and before is not None and after.lease is not None:
            state = self._ready.state(after.job_type)
            self.moves.hand_out(before, self._now, 0 if state is None else state.turn_time)
        if counts is not counted:
            self.moves.add(after.job_type, after.lane, counted, counts)
        self._ready.changed(after.job_type, after.lane)
        if before is not None and self._gives_up_place(after.job_type, counted, counts):
            self.freed.add(after.job_type)

    def _gives_up_place(self, job_type: str, counted: LaneCounts, counts: LaneCounts) -> bool:
        """Whether another job may have the place of this one."""
        policy = self._job_types.policy(job_type)
        if not policy.is_bounded:
            return False
        return counts.running < counted.running or (policy.holds_jobs and counts.resting < counted.resting)

    def in_order(self, job_types: Iterable[str]) -> Iterable[Job]:
        """The jobs of these types that can be handed out, the next one first. None if it is not our turn."""
        if self.turns is not None:
            job_types = [name for name in job_types if name in self.turns]
        return self._ready.in_order(job_types, self._jobs, self._now)

    def ready_types(self, among: Iterable[str] | None = None) -> list[str]:
        """The wanted types of which a job can be handed out now, by whoever's turn it is.

        ``among``: only these, if it is our turn.
        """
        if among is None:
            return [name for name in self._ready.job_types if self._ready.has_any(name, self._jobs, self._now)]
        return [name for name in among if next(iter(self.in_order((name,))), None) is not None]

    def count(self, job_types: Iterable[str], limit: int) -> int:
        """How many jobs of these types can be handed out now, counted up to ``limit``."""
        count = 0
        for _ in self.in_order(job_types):
            count += 1
            if count == limit:
                break
        return count

    @property
    def seen_types(self) -> Iterable[str]:
        """The wanted types of which a job was ready at any time in this batch."""
        return self._ready.job_types

    @property
    def known_types(self) -> Iterable[str]:
        """The types of which is known what is stored."""
        return self._ready.known_types

    def opens(self, job_type: str) -> int | None:
        """When a rate or hold will allow another hand-out of a type. None if none is in the way."""
        return self._ready.opens(job_type, self._now)

    def counted(self, job_type: str, lane: str | None) -> LaneCounts:
        """How many jobs of a type, or of a lane of it, are where now. What is stored of it must be known."""
        state, move = self._ready.state(job_type), self.moves.of_type(job_type)
        assert state is not None
        if lane is None:
            return state.counts.plus(move.counts)
        return _lane_of(state, lane).counts.plus(move.lane(lane).counts)

    def paused(self, job_type: str, lane: str | None, *, paused: bool) -> None:
        """A type or lane is paused from now on, or goes on."""
        state = self._ready.state(job_type)
        assert state is not None
        # From now on the type has a row, which is gone by.
        state.is_stored = True
        self._outdate(job_type)
        if lane is None:
            state.paused = paused
        else:
            _lane_of(state, lane).paused = paused
            self._ready.changed(job_type, lane)

    def hold(self, job: Job, until: int, reason: str) -> None:
        """Hold the lane of a job."""
        self.moves.hold(job, until, reason)
        self._ready.changed(job.job_type, job.lane)
        self._outdate(job.job_type)

    def _outdate(self, job_type: str) -> None:
        if job_type in self.picked:
            self.outdated.add(job_type)

    def closed_lanes(self) -> Sequence[tuple[str, str]]:
        """The lanes whose time has come again since their rows were written."""
        names = [name for name, _ in self.moves]
        states = [state for name in names if (state := self._ready.state(name)) is not None]
        return [(state.job_type, lane) for state in states for lane in state.closed]


def _lane_of(state: TypeState, name: str) -> LaneState:
    """A lane of which nothing is stored may be paused too."""
    return state.lanes.setdefault(name, LaneState(name))
