"""Groups: jobs that the server itself runs, and that end when their members have.

The counts of a group are sums. Each change of a member adds a ``GroupMove``; whoever adds it sees the new counts, and
so whether the group has something to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from functools import partial
from operator import add, attrgetter, sub
from typing import NamedTuple

from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.job import Job, JobState, saturating_add
from jobstate_server.domain.values import plain_members

TOLERATES_ANY = -1
"""In place of a number of tolerated failures: any number."""

DEPTH_MAX = 8
"""How deep groups may be nested: a hand-out looks at as many rows to see whether one of them is stopping."""

PROGRESS_INTERVAL = 1 * SECOND
"""How often a group reports its progress at most, so that its row is not written for each member."""

PROGRESS_ENDED = 100
"""The progress that an ended member counts with, however it ended: the work on it is over."""


@plain_members
class OnExcess(IntEnum):
    """What happens to the other members once more have failed than the group tolerates. The numbers are stored and are
    those of ``jobstate.v1.OnExcess``."""

    FINISH = 1
    CANCEL = 2


class GroupPolicy(NamedTuple):
    """How a group ends."""

    tolerated_failures: int = 0
    on_excess: OnExcess = OnExcess.FINISH

    def is_exceeded(self, failures: int) -> bool:
        """Whether more members have failed than is tolerated."""
        return self.tolerated_failures != TOLERATES_ANY and failures > self.tolerated_failures


class GroupMove(NamedTuple):
    """What the change of a member adds to the counts of its group."""

    total: int = 0
    completed: int = 0
    permanently_failed: int = 0
    cancelled: int = 0
    progress: int = 0
    tokens: int = 0
    cost_nano: int = 0

    def plus(self, other: GroupMove) -> GroupMove:
        """The sum of both."""
        return _move(map(add, self, other))

    def minus(self, other: GroupMove) -> GroupMove:
        """What leads from the other to this."""
        return _move(map(sub, self, other))


_move = partial(tuple.__new__, GroupMove)
"""A GroupMove of the values of all its fields, made in half the time."""

NO_MOVE = GroupMove()


GroupRef = int | str
"""Names a group in a transaction: the ``create_sequence`` of a stored one, the id of one that the transaction makes."""


def group_of(job: Job) -> GroupRef | None:
    """The group that a job is a member of. None if it is in none."""
    return job.group_id if job.group_key is None else job.group_key


def own_ref(group: Job) -> GroupRef:
    """The name of the group that a job is."""
    return group.create_sequence or group.id


def policy_of(group: Job) -> GroupPolicy:
    """How the group that a job is ends."""
    return GroupPolicy(group.tolerated_failures, OnExcess(group.on_excess))


@dataclass(frozen=True, slots=True)
class Group:
    """The counts of a group and what was decided about it."""

    policy: GroupPolicy
    counts: GroupMove = NO_MOVE
    closed: bool = False
    stopping: bool = False
    """Whether no member is handed out any more."""
    is_final: bool = False

    @property
    def ended(self) -> int:
        """How many members are final."""
        return self.counts.completed + self.failures

    @property
    def failures(self) -> int:
        """How many members ended otherwise than COMPLETED."""
        return self.counts.permanently_failed + self.counts.cancelled

    @property
    def unfinished(self) -> int:
        """How many members are not final."""
        return self.counts.total - self.ended

    @property
    def progress(self) -> int:
        """The mean progress of the members, 0 to 100, rounded down. 0 without members."""
        return self.counts.progress // self.counts.total if self.counts.total else 0

    def moved(self, move: GroupMove) -> Group:
        """The group after changes of its members. With too many failures it may be stopping from then on."""
        counts = self.counts.plus(move)
        if move.tokens or move.cost_nano:
            counts = counts._replace(
                tokens=saturating_add(self.counts.tokens, move.tokens),
                cost_nano=saturating_add(self.counts.cost_nano, move.cost_nano),
            )
        failures = counts.permanently_failed + counts.cancelled
        stops = self.policy.on_excess is OnExcess.CANCEL and self.policy.is_exceeded(failures)
        return Group(self.policy, counts, self.closed, self.stopping or stops, self.is_final)


def move_of(before: Job | None, after: Job, *, is_group: bool = False) -> GroupMove:
    """What a change of a member adds to its group.

    Args:
        is_group: whether the member is itself a group, whose tokens and cost its own members have added already.
    """
    if before is None:
        move = _counted(after)
    elif after.state.is_final or _reported(after) != _reported(before):
        move = _counted(after).minus(_counted(before))
    else:
        # Most changes: it was handed out, or goes on to another attempt.
        return NO_MOVE
    return move._replace(tokens=0, cost_nano=0) if is_group else move


_reported = attrgetter("progress", "estimated_tokens", "estimated_cost_nano")
"""What an unfinished member adds to the counts of its group, besides that it is one."""


def _counted(job: Job) -> GroupMove:
    """How a job counts as a member."""
    state = job.state
    return _move(
        (
            1,
            int(state is JobState.COMPLETED),
            int(state is JobState.PERMANENTLY_FAILED),
            int(state is JobState.CANCELLED),
            PROGRESS_ENDED if state.is_final else job.progress,
            job.estimated_tokens,
            job.estimated_cost_nano,
        )
    )


def refusal_to_add(group: Group, *, by_member: bool) -> str:
    """Why a group takes no more members: ``final``, ``stopping`` or ``closed``. Empty if it does.

    Args:
        by_member: whether a running member adds it. Until that has ended the group cannot end.
    """
    if group.is_final:
        return "final"
    if group.stopping:
        return "stopping"
    return "closed" if group.closed and not by_member else ""


class GroupStep(Enum):
    """What the server does next with a group."""

    CANCEL_MEMBERS = auto()
    COMPLETE = auto()
    FAIL = auto()


def next_step(group: Group) -> GroupStep | None:
    """What is to be done now. None if the group waits for its members, or is over."""
    if group.stopping and group.unfinished:
        return GroupStep.CANCEL_MEMBERS
    # A stopping group takes no more members, so nobody needs to close it.
    if group.is_final or group.unfinished or not (group.closed or group.stopping):
        return None
    return GroupStep.FAIL if group.policy.is_exceeded(group.failures) else GroupStep.COMPLETE


def next_look(after: Group, now: int, due_time: int | None, progress_time: int, *, progressed: bool) -> int | None:
    """When the server must look at a group after a change of it. None if nothing is to be done.

    Stores compute it in the statement that adds the change.

    Args:
        after: the group with the change.
        due_time: when it was to be looked at before the change. None if that is what the change does.
        progress_time: when its progress was last reported, which the change may do.
        progressed: whether ``Group.progress`` is another than before the change, or than the change reports.
    """
    if next_step(after) is not None:
        return now
    if after.is_final:
        return None
    if due_time is None and progressed:
        return max(now, progress_time + PROGRESS_INTERVAL)
    return due_time
