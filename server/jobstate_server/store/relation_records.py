"""The records of needs and groups that a store takes and returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jobstate_server.domain.groups import Group, GroupMove, GroupPolicy
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import Need, NeedCondition


class NeedRow(NamedTuple):
    """A need to insert. The job that has it is inserted in the same transaction."""

    child_event: int
    """The index of that job's creation event in ``Changes.events``."""
    position: int
    parent_id: str
    """The needed job."""
    parent_key: int | None
    """Its key. None if it is inserted in the same transaction too."""
    parent_event: int | None
    """The index of its creation event then."""
    condition: NeedCondition
    outcome: JobState | None
    """How the needed job had ended when this need was decided on. None if it had not."""
    is_counted: bool
    """Whether the job that has it is not final, so that the needed job is kept for it."""


class NewGroup(NamedTuple):
    """A group to insert, without members. Its job is inserted in the same transaction."""

    event: int
    """The index of its job's creation event in ``Changes.events``."""
    group_id: str
    parent_key: int | None
    """The key of the group that it is a member of. None if it is in none, or in one that is inserted here too."""
    parent_event: int | None
    """The index of that group's creation event, if it is inserted here too."""
    depth: int
    policy: GroupPolicy


class NewMember(NamedTuple):
    """A job to insert whose group is inserted too: the store sets its ``group_key``, in place, to that event's
    sequence."""

    job: Job
    group_event: int


class NewWait(NamedTuple):
    """A job to insert that waits for a group that is inserted too: the store sets its ``awaited_group``, in place."""

    job: Job
    group_events: Sequence[int]
    """The indexes of the creation events of all groups that are inserted, as ``wait_order.settled`` wants their
    sequences."""


class GroupChange(NamedTuple):
    """What is added to a group. ``Group.moved`` and ``groups.next_look`` say what follows from it.

    Tokens and cost are also added to all groups around it. Neither the group nor those need exist any more.
    """

    group_key: int | None
    """None if it is inserted in the same transaction."""
    event: int | None
    """The index of its creation event then."""
    move: GroupMove
    closes: bool = False
    stops: bool = False
    ends: bool = False
    """Whether its job is final from now on."""
    reported: int | None = None
    """The progress that was reported now, because the server has looked at it: its ``due_time`` is None before. None if
    it has not."""
    look_again: int | None = None
    """Its ``due_time``, whatever follows from its counts. None leaves it to them."""


class GroupGuard(NamedTuple):
    """A group that must neither be stopping nor have ended when the transaction is written, as stored before it.

    Where several servers share a store, it is checked under the lock of the log; TransactionConflict if it fails.
    """

    group_key: int
    may_be_closed: bool


class StoredGroup(NamedTuple):
    """A group as it is stored."""

    group_id: str
    parent_key: int | None
    """The key of the group that it is a member of."""
    group: Group


class StoredNeed(NamedTuple):
    """A need of a job, as readers see it."""

    need: Need
    outcome: JobState | None
    """How the needed job ended. None while it is not final, and if the job that needs it ended before."""
