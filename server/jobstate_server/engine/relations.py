"""The needs and groups of one batch: what the rules see of them, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jobstate_server.domain import groups
from jobstate_server.domain.events import Event
from jobstate_server.domain.groups import NO_MOVE, Group, GroupMove, GroupRef, group_of, move_of, own_ref, policy_of
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import NewNeed, OpenNeeds, ResolvedNeed
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.reads import Due
from jobstate_server.domain.wait_order import PROVISIONAL, GroupPath, from_text, is_settled
from jobstate_server.store.records import ChangedJob, Changes, Loaded
from jobstate_server.store.relation_records import (
    GroupChange,
    GroupGuard,
    NeedRow,
    NewGroup,
    NewMember,
    NewWait,
    StoredGroup,
)

ReadGroups = Callable[[Collection[int]], Mapping[int, StoredGroup]]

FirstEvent = Callable[[str], int | None]
"""The index of the event that reports the creation of a job. None for a job that is stored."""


def no_groups(_keys: Collection[int]) -> Mapping[int, StoredGroup]:
    """Reads groups where there are none."""
    return {}


@dataclass(slots=True)
class _Mark:
    """What a batch has changed of a group."""

    now: Group
    """The group after all changes so far."""
    move: GroupMove = NO_MOVE
    closes: bool = False
    stops: bool = False
    ends: bool = False
    reported: int | None = None
    look_again: int | None = None

    def add(self, move: GroupMove) -> None:
        """A member has changed."""
        self.move = self.move.plus(move)
        self.now = self.now.moved(move)

    def close(self) -> None:
        """The group has all its members."""
        self.closes = True
        self.now = replace(self.now, closed=True)

    def end(self, *, stops: bool) -> None:
        """The group has ended. ``stops``: no member is handed out any more."""
        self.ends, self.stops = True, stops
        self.now = replace(self.now, is_final=True, stopping=self.now.stopping or stops)


class _Known(NamedTuple):
    """A group as it was when the transaction began, or when it was made."""

    group_id: str
    parent: GroupRef | None
    group: Group


class _Need(NamedTuple):
    """A need of a job that the batch creates."""

    need: NewNeed
    parent_key: int | None
    parent_event: int | None


class BatchRelations:
    """What one batch knows and changes of needs and groups. ``domain.batch_view`` documents what the rules use."""

    def __init__(self, loaded: Loaded, jobs: Mapping[str, Job], read_groups: ReadGroups) -> None:
        """``jobs``: the jobs of the batch, as they are now."""
        self._loaded = loaded
        self._jobs = jobs
        self._read_groups = read_groups
        self._known: dict[GroupRef, _Known] = {}
        self._made: dict[str, Job] = {}
        """The groups that the batch creates, by id, in the order of their creation."""
        self._members: set[str] = set()
        """The ids of the members that it adds to these."""
        self._waiting: set[str] = set()
        """The ids of the jobs that it creates to wait for these."""
        self._marks: dict[GroupRef, _Mark] = {}
        self._guards: dict[int, bool] = {}
        """The stored groups that decisions rely on, and whether they may be closed."""
        self._needs: list[_Need] = []
        self._resolved: list[ResolvedNeed] = []
        self._ended_children: list[int] = []

    def due_groups(self, selection: Due) -> Sequence[str]:
        return self._loaded.due_groups.get(selection, ())

    def open_needs(self, parent: Job) -> OpenNeeds:
        # Nothing was read of a job that ends in this batch, though it was due before: its lease had ended.
        return self._loaded.open_needs.get(parent.id, OpenNeeds(is_all=False))

    def unfinished_members(self, group: Job) -> Sequence[str]:
        return self._loaded.unfinished_members.get(group.id, ())

    def group(self, group: Job) -> Group:
        return self._now(own_ref(group))

    def stored_group(self, group: Job) -> Group:
        return self._find(own_ref(group)).group

    def path(self, group: Job) -> GroupPath:
        refs = [own_ref(group), *self._around(group)]
        made = {ref: PROVISIONAL + place for place, ref in enumerate(self._made)}
        return tuple(ref if isinstance(ref, int) else made[ref] for ref in reversed(refs))

    def next_key(self) -> int:
        return PROVISIONAL + len(self._made)

    def refusal_to_add(self, group: Job, *, by_member: bool) -> str:
        ref = own_ref(group)
        why = groups.refusal_to_add(self._now(ref), by_member=by_member)
        if not why:
            self._rely_on(ref, may_be_closed=by_member)
        return why

    def stopping_group(self, member: Job) -> str:
        around = list(self._around(member))
        for ref in around:
            if self._now(ref).stopping:
                return self._find(ref).group_id
        for ref in around:
            self._rely_on(ref, may_be_closed=True)
        return ""

    def told(self, change: Change) -> Sequence[Event]:
        """The events of a change. Those of a group have its counts."""
        job = change.after
        if not (job.group_depth and change.events):
            return change.events
        group = Group(policy_of(job)) if change.before is None else self.group(job)
        if job.state is JobState.CANCELLED:
            group = replace(group, stopping=True)
        return [replace(event, members=group) for event in change.events]

    def note(self, change: Change) -> None:
        """A job was created or changed that is a group, is in one, or has needs."""
        before, job = change.before, change.after
        ends = before is not None and job.state.is_final and not before.state.is_final
        if job.group_depth:
            if before is None:
                self._made[job.id] = job
                self._known[job.id] = _Known(job.id, group_of(job), Group(policy_of(job)))
            elif ends:
                self._mark(own_ref(job)).end(stops=job.state is JobState.CANCELLED)
        ref = group_of(job)
        if ref is not None:
            if before is None and job.group_key is None:
                self._members.add(job.id)
            move = move_of(before, job, is_group=job.group_depth > 0)
            if move != NO_MOVE:
                self._mark(ref).add(move)
        if before is None and job.awaited_group is not None and not is_settled(from_text(job.awaited_group)):
            self._waiting.add(job.id)
        if ends and job.needs_count and job.create_sequence:
            self._ended_children.append(job.create_sequence)

    def carry_out(self, plan: Plan, first_event: FirstEvent) -> None:
        """Note what a plan changes besides jobs."""
        for need in plan.needs:
            parent = self._jobs[need.need.job_id]
            is_new = not parent.create_sequence
            self._needs.append(_Need(need, parent.create_sequence or None, first_event(parent.id) if is_new else None))
        self._resolved += plan.resolved
        if plan.closed_group is not None:
            self._mark(own_ref(plan.closed_group)).close()
        if plan.served_group is not None:
            mark = self._mark(own_ref(plan.served_group.group))
            mark.reported, mark.look_again = plan.served_group.progress, plan.served_group.look_again

    def add_to(self, changes: Changes, rows: Mapping[str, ChangedJob]) -> None:
        """Add all of it to what is written."""
        if not (self._marks or self._guards or self._made or self._needs or self._resolved or self._ended_children):
            return
        for need, parent_key, parent_event in self._needs:
            child = rows[need.child_id]
            assert child.first_event is not None
            is_counted = not child.job.state.is_final
            changes.new_needs.append(
                NeedRow(
                    child.first_event,
                    need.position,
                    need.need.job_id,
                    parent_key,
                    parent_event,
                    need.need.condition,
                    need.outcome,
                    is_counted,
                )
            )
        changes.resolved_needs += self._resolved
        changes.ended_children += self._ended_children
        events = {job_id: _created_by(rows[job_id]) for job_id in self._made}
        for job in self._made.values():
            parent_event = None if job.group_id is None or job.group_key is not None else events[job.group_id]
            changes.new_groups.append(
                NewGroup(events[job.id], job.id, job.group_key, parent_event, job.group_depth, policy_of(job))
            )
        for job_id in self._members:
            job = rows[job_id].job
            assert job.group_id is not None
            changes.new_members.append(NewMember(job, events[job.group_id]))
        changes.new_waits += [NewWait(rows[job_id].job, tuple(events.values())) for job_id in self._waiting]
        for ref, mark in self._marks.items():
            key, event = (ref, None) if isinstance(ref, int) else (None, events[ref])
            changes.groups.append(
                GroupChange(key, event, mark.move, mark.closes, mark.stops, mark.ends, mark.reported, mark.look_again)
            )
        changes.group_guards += [GroupGuard(key, may_be_closed) for key, may_be_closed in self._guards.items()]

    def _around(self, member: Job) -> Sequence[GroupRef]:
        """The groups around a job, the nearest first."""
        found: list[GroupRef] = []
        ref = group_of(member)
        while ref is not None:
            found.append(ref)
            ref = self._find(ref).parent
        return found

    def _now(self, ref: GroupRef) -> Group:
        """A group after all changes so far."""
        mark = self._marks.get(ref)
        return self._find(ref).group if mark is None else mark.now

    def _find(self, ref: GroupRef) -> _Known:
        known = self._known.get(ref)
        if known is None:
            assert isinstance(ref, int), "a group that the batch has made is known"
            self._read(ref)
            known = self._known[ref]
        return known

    def _read(self, key: int) -> None:
        """Read a group, and with it all that jobs of the batch are, or are in: others of the batch may ask for them."""
        keys = {key}
        for job in self._jobs.values():
            if job.group_key is not None:
                keys.add(job.group_key)
            if job.group_depth and job.create_sequence:
                keys.add(job.create_sequence)
        for found, stored in self._read_groups(keys - self._known.keys()).items():
            self._known.setdefault(found, _Known(stored.group_id, stored.parent_key, stored.group))

    def _rely_on(self, ref: GroupRef, *, may_be_closed: bool) -> None:
        if isinstance(ref, int):
            self._guards[ref] = may_be_closed and self._guards.get(ref, True)

    def _mark(self, ref: GroupRef) -> _Mark:
        mark = self._marks.get(ref)
        if mark is None:
            mark = self._marks[ref] = _Mark(self._find(ref).group)
        return mark


def _created_by(row: ChangedJob) -> int:
    assert row.first_event is not None
    return row.first_event
