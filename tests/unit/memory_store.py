"""A store of jobs, needs and groups in memory: what ``store.records`` says that stores do, in plain Python."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from jobstate.v1 import event_pb2
from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.events import EventType
from jobstate_server.domain.groups import Group, GroupMove, next_look
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import NeedCondition, OpenNeed, OpenNeeds
from jobstate_server.domain.reads import Due, Reads
from jobstate_server.domain.statistics import TallyKey
from jobstate_server.domain.waiting import is_ready
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.outcomes import DueOutcome, Outcome, Verdict
from jobstate_server.store.records import Changes, Loaded, NewEvent
from jobstate_server.store.relation_records import GroupChange, StoredGroup
from jobstate_server.wire.events import complete_event

from .support import a_decider


@dataclass
class NeedOf:
    """A row of ``need``."""

    child_id: str
    parent_id: str
    parent_key: int
    condition: NeedCondition
    outcome: JobState | None


@dataclass
class GroupRow:
    """A row of ``members``."""

    group_id: str
    parent_key: int | None
    group: Group
    due_time: int | None = None
    progress_time: int = 0


class Told(NamedTuple):
    """An event of the log."""

    sequence: int
    job_id: str
    type: EventType
    event: event_pb2.Event


@dataclass
class MemoryStore:
    """One server over one store."""

    slice: int = 2
    """Needs, and members, that one transaction has in hand at most."""
    now: int = 1_000_000_000
    jobs: dict[str, Job] = field(default_factory=dict)
    needs: dict[tuple[int, int], NeedOf] = field(default_factory=dict)
    """By the key of the job that has the need, and its place."""
    needed: dict[int, int] = field(default_factory=dict)
    """How many unfinished jobs need a job, by its key."""
    groups: dict[int, GroupRow] = field(default_factory=dict)
    tallies: dict[TallyKey, int] = field(default_factory=dict)
    log: list[Told] = field(default_factory=list)
    locked: set[str] = field(default_factory=set)
    """Jobs that another replica has in hand: selections leave them out."""
    changes: Changes = field(default_factory=Changes)
    """What the latest transaction wrote."""

    def __post_init__(self) -> None:
        self.decider = a_decider()
        self.group_due: int | None = None
        self.batch: Batch | None = None
        """The latest."""

    def commit(self, *commands: c.Command) -> list[Verdict]:
        """Decide these in one transaction."""
        reads = Reads()
        for command in commands:
            command.add_reads(reads)
        types = {name for command in commands if isinstance(command, c.Acquire) for name in command.job_types}
        batch = self.batch = Batch(self.decider, self.now, self._load(reads), 10, types, self._groups)
        for job in sorted(self.jobs.values(), key=lambda job: (job.ready_time, job.create_sequence)):
            if job.job_type in types and is_ready(job):
                batch.offer(job)
        batch.decide(*commands)
        self.changes, self.group_due = Changes(), None
        transaction: Any = self
        first, _ = batch.write(transaction, is_last=True)
        return batch.verdicts(first, None)

    def ask(self, command: c.Command) -> Verdict:
        """Decide one command."""
        (verdict,) = self.commit(command)
        return verdict

    def do(self, command: c.Command) -> Outcome:
        """Decide one command that is not refused."""
        verdict = self.ask(command)
        assert isinstance(verdict, Outcome), verdict
        return verdict

    def serve_due(self, limit: int = 4) -> DueOutcome:
        """Serve what is due now, in one transaction."""
        outcome = self.do(c.ServeDue(limit=limit, caller=SERVER))
        assert isinstance(outcome, DueOutcome)
        return outcome

    def settle(self) -> int:
        """Serve what is due until nothing is. Returns how many transactions it took."""
        count = 0
        while self.is_due():
            self.serve_due()
            count += 1
            assert count < 1_000, "something stays due"
        return count

    def is_due(self) -> bool:
        due = [job.due_time for job in self.jobs.values()] + [row.due_time for row in self.groups.values()]
        return any(time is not None and time <= self.now for time in due)

    def told(self, job_id: str) -> list[EventType]:
        """The types of the events of a job."""
        return [event.type for event in self.log if event.job_id == job_id]

    def _groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        found: dict[int, StoredGroup] = {}
        wanted = list(keys)
        while wanted:
            key = wanted.pop()
            row = self.groups[key]
            found[key] = StoredGroup(row.group_id, row.parent_key, row.group)
            if row.parent_key is not None:
                wanted.append(row.parent_key)
        return found

    def _load(self, reads: Reads) -> Loaded:
        loaded = Loaded({job_id: self.jobs[job_id] for job_id in reads.job_ids if job_id in self.jobs}, {})
        for selection in reads.selections:
            assert isinstance(selection, Due)
            self._load_due(selection, loaded)
        return loaded

    def _load_due(self, selection: Due, loaded: Loaded) -> None:
        due = [
            job
            for job in self.jobs.values()
            if job.due_time is not None and job.due_time <= self.now and job.id not in self.locked
        ]
        due = sorted(due, key=lambda job: (job.due_time or 0, job.create_sequence))[: selection.limit]
        loaded.due[selection] = [job.id for job in due]
        loaded.jobs.update((job.id, job) for job in due)
        room = self.slice
        for job in due:
            if job.state.is_final:
                edges = [
                    OpenNeed(need.child_id, key, position, need.condition)
                    for (key, position), need in self.needs.items()
                    if need.parent_key == job.create_sequence and need.outcome is None
                ]
                taken = [edge for edge in edges if edge.child_id not in self.locked][:room]
                room -= len(taken)
                loaded.open_needs[job.id] = OpenNeeds(taken, len(taken) == len(edges))
                loaded.jobs.update((edge.child_id, self.jobs[edge.child_id]) for edge in taken)
        rows = [
            (row.due_time, key, row)
            for key, row in self.groups.items()
            if row.due_time is not None and row.due_time <= self.now and row.group_id not in self.locked
        ]
        room = self.slice
        for _, key, row in sorted(rows, key=lambda each: each[:2])[: selection.limit]:
            loaded.due_groups.setdefault(selection, []).append(row.group_id)
            loaded.jobs[row.group_id] = self.jobs[row.group_id]
            if row.group.stopping:
                members = [
                    job.id
                    for job in self.jobs.values()
                    if job.group_key == key and not job.state.is_final and job.id not in self.locked
                ][:room]
                room -= len(members)
                loaded.unfinished_members[row.group_id] = members
                loaded.jobs.update((job_id, self.jobs[job_id]) for job_id in members)

    def finish(self, changes: Changes) -> int:
        """Write, as ``Transaction.finish``."""
        self.changes = changes
        first = len(self.log) + 1
        for guard in changes.group_guards:
            group = self.groups[guard.group_key].group
            assert not group.stopping
            assert not group.is_final
            assert guard.may_be_closed or not group.closed
        self.log += [_told(sequence, event) for sequence, event in enumerate(changes.events, first)]
        changes.place_in_groups(first)
        for job, last_event, first_event, _ in (*changes.inserted, *changes.updated, *changes.progressed):
            if first_event is not None:
                job.created(first + first_event)
            if last_event is not None:
                job.numbered(first + last_event)
            self.jobs[job.id] = job
        for key, count in changes.tallies.items():
            self.tallies[key] = self.tallies.get(key, 0) + count
        self._write_needs(changes, first)
        self._write_groups(changes, first)
        return first

    def _write_needs(self, changes: Changes, first: int) -> None:
        keys = {job.create_sequence: job.id for job in self.jobs.values()}
        for need in changes.new_needs:
            child_key = first + need.child_event
            parent_key = need.parent_key if need.parent_event is None else first + need.parent_event
            assert parent_key is not None
            row = NeedOf(keys[child_key], need.parent_id, parent_key, need.condition, need.outcome)
            self.needs[child_key, need.position] = row
            if need.is_counted:
                self.needed[parent_key] = self.needed.get(parent_key, 0) + 1
        for resolved in changes.resolved_needs:
            known = self.needs[resolved.child_key, resolved.position]
            assert known.outcome is None
            known.outcome = resolved.outcome
        for key in changes.ended_children:
            for (child_key, _), known in self.needs.items():
                if child_key == key:
                    self.needed[known.parent_key] -= 1

    def _write_groups(self, changes: Changes, first: int) -> None:
        for new in changes.new_groups:
            parent = new.parent_key if new.parent_event is None else first + new.parent_event
            assert parent is None or parent in self.groups
            self.groups[first + new.event] = GroupRow(new.group_id, parent, Group(new.policy))
        assert len({change[:2] for change in changes.groups}) == len(changes.groups)
        for change in changes.groups:
            key = change.group_key if change.event is None else first + change.event
            assert key is not None
            self._change_group(key, change)
            above = self.groups[key].parent_key
            while above is not None:
                row = self.groups[above]
                row.group = row.group.moved(GroupMove(tokens=change.move.tokens, cost_nano=change.move.cost_nano))
                above = row.parent_key
        due = [row.due_time for row in self.groups.values() if row.due_time is not None]
        self.group_due = min(due, default=None)

    def _change_group(self, key: int, change: GroupChange) -> None:
        row = self.groups[key]
        before = row.group
        moved = before.moved(change.move)
        after = row.group = replace(
            moved,
            closed=moved.closed or change.closes,
            stopping=moved.stopping or change.stops,
            is_final=moved.is_final or change.ends,
        )
        due_time = row.due_time
        progressed = before.progress != after.progress
        if change.reported is not None:
            due_time, row.progress_time = None, self.now
            progressed = change.reported != after.progress
        row.due_time = next_look(after, self.now, due_time, row.progress_time, progressed=progressed)
        if change.look_again is not None:
            row.due_time = change.look_again


def _told(sequence: int, event: NewEvent) -> Told:
    sent = complete_event(
        sequence, event.time, event.job_id, event.job_type, event.source_id, event.type, event.payload
    )
    return Told(sequence, event.job_id, EventType(event.type), event_pb2.Event.FromString(sent))


def states_of(jobs: Mapping[str, Job], *job_ids: str) -> list[str]:
    """The states of these jobs, by their names."""
    return [jobs[job_id].state.name for job_id in job_ids]
