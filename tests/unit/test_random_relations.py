"""Random graphs of needs and groups, decided by real batches: every job ends, in an order that the log can show."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jobstate.v1 import job_pb2
from jobstate_server.domain import commands as c
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.events import EventType
from jobstate_server.domain.groups import TOLERATES_ANY, GroupMove, GroupPolicy, OnExcess, move_of
from jobstate_server.domain.job import Job, JobState, Usage
from jobstate_server.domain.needs import Need, NeedCondition, is_met
from jobstate_server.domain.statistics import Measure
from jobstate_server.domain.waiting import CancelCause, WaitReason

from .memory_store import MemoryStore
from .test_needs_in_batches import TYPE, create

ENDS = {EventType.COMPLETED, EventType.PERMANENTLY_FAILED, EventType.CANCELLED}

chosen = st.integers(0, 10**6)
policies = st.builds(GroupPolicy, st.sampled_from([TOLERATES_ANY, 0, 1, 2]), st.sampled_from(OnExcess))


class Relations(RuleBasedStateMachine):
    """Callers, workers and the server's own slices, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(slice=2)
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"{self.count:03}"

    def pick(self, number: int, jobs: list[Job]) -> Job | None:
        return jobs[number % len(jobs)] if jobs else None

    def groups(self) -> list[Job]:
        return [job for job in self.store.jobs.values() if job.group_depth]

    def ready(self) -> list[Job]:
        return [job for job in self.store.jobs.values() if job.state is JobState.QUEUED and not job.held]

    def running(self) -> list[Job]:
        running = (JobState.PROCESSING, JobState.PROCESSING)
        return [job for job in self.store.jobs.values() if job.state in running and not job.group_depth]

    def needs_of(self, numbers: list[tuple[int, NeedCondition]]) -> list[Need]:
        jobs = list(self.store.jobs.values())
        found = {job.id: condition for number, condition in numbers if (job := self.pick(number, jobs)) is not None}
        return [Need(job_id, condition) for job_id, condition in found.items()]

    @rule(
        numbers=st.lists(st.tuples(chosen, st.sampled_from(NeedCondition)), max_size=3),
        member_of=st.none() | chosen,
        by=st.none() | chosen,
    )
    def create(self, numbers: list[tuple[int, NeedCondition]], member_of: int | None, by: int | None) -> None:
        group = None if member_of is None else self.pick(member_of, self.groups())
        needs = self.needs_of(numbers)
        related = {} if group is None else {"group_id": group.id}
        creator = None if by is None else self.pick(by, self.running())
        if creator is not None:
            related["by"] = c.AttemptRef(creator.id, creator.attempt)  # type: ignore[assignment]
        self.store.ask(create(self.name(), *needs, **related))

    @rule(policy=policies, member_of=st.none() | chosen)
    def create_a_group(self, policy: GroupPolicy, member_of: int | None) -> None:
        around = None if member_of is None else self.pick(member_of, self.groups())
        self.store.ask(create(self.name(), group=policy, **({} if around is None else {"group_id": around.id})))

    @rule(policy=policies, members=st.integers(0, 4), closes=st.booleans())
    def create_a_group_with_members_in_one_batch(self, policy: GroupPolicy, members: int, closes: bool) -> None:
        group_id = self.name()
        parts = [create(group_id, group=policy), *(create(self.name(), group_id=group_id) for _ in range(members))]
        commands: list[c.Command] = [c.BatchCreate(creates=tuple(parts))]
        self.store.commit(*commands, *([c.CloseGroup(job_id=group_id)] if closes else []))

    @rule(policy=policies, numbers=st.lists(st.tuples(chosen, st.sampled_from(NeedCondition)), max_size=2))
    def create_a_group_in_a_group_with_a_job_that_needs_it_in_one_batch(
        self, policy: GroupPolicy, numbers: list[tuple[int, NeedCondition]]
    ) -> None:
        """And with a member of either that needs others, or them. Some of these are refused."""
        outer, inner, waiting = self.name(), self.name(), self.name()
        beside = {(outer, inner, waiting)[number % 3] for number, _ in numbers}
        needs = [*self.needs_of(numbers), *map(Need, sorted(beside))]
        parts = [
            create(outer, group=policy),
            create(inner, group=policy, group_id=outer),
            create(waiting, inner),
            create(self.name(), *needs, group_id=inner if len(numbers) % 2 else outer),
        ]
        self.store.ask(c.BatchCreate(creates=tuple(parts)))

    @rule(number=chosen)
    def close(self, number: int) -> None:
        group = self.pick(number, self.groups())
        if group is not None:
            self.store.do(c.CloseGroup(job_id=group.id))

    @rule(number=chosen)
    def cancel(self, number: int) -> None:
        job = self.pick(number, [job for job in self.store.jobs.values() if not job.state.is_final])
        if job is not None:
            self.store.do(c.Cancel(job_id=job.id))

    @rule(number=chosen)
    def start(self, number: int) -> None:
        job = self.pick(number, self.ready())
        if job is not None:
            self.store.ask(c.Start(job_id=job.id, worker="w"))

    @rule(count=st.integers(1, 4))
    def acquire(self, count: int) -> None:
        self.store.do(c.Acquire(job_types=(TYPE,), max_jobs=count))

    @rule(number=chosen, progress=st.integers(0, 100), tokens=st.integers(0, 99))
    def report(self, number: int, progress: int, tokens: int) -> None:
        job = self.pick(number, self.running())
        if job is not None:
            usage = Usage(tokens=tokens)
            self.store.do(c.UpdateProgress(job_id=job.id, attempt=job.attempt, progress=progress, usage=usage))

    @rule(ends=st.lists(st.tuples(chosen, st.sampled_from(["complete", "fail", "retry"])), min_size=1, max_size=4))
    def end_some_in_one_batch(self, ends: list[tuple[int, str]]) -> None:
        commands: dict[str, c.Command] = {}
        for number, how in ends:
            job = self.pick(number, self.running())
            if job is not None:
                named = {"job_id": job.id, "attempt": job.attempt}
                if how == "complete":
                    commands[job.id] = c.Complete(**named)  # type: ignore[arg-type]
                else:
                    commands[job.id] = c.Fail(**named, retryable=how == "retry", retry_delay=0)  # type: ignore[arg-type]
        self.store.commit(*commands.values())

    @rule(locked=st.sets(chosen, max_size=3), besides=st.none() | chosen)
    def serve_a_slice(self, locked: set[int], besides: int | None) -> None:
        """Some jobs are in the hands of another replica, and the batch may have a command of a caller too."""
        jobs = list(self.store.jobs.values())
        self.store.locked = {job.id for number in locked if (job := self.pick(number, jobs)) is not None}
        job = None if besides is None else self.pick(besides, self.running())
        caller = [] if job is None else [c.Complete(job_id=job.id, attempt=job.attempt)]
        self.store.commit(*caller, c.ServeDue(limit=3))
        self.store.locked = set()

    @rule(tenths=st.integers(0, 20))
    def time_passes(self, tenths: int) -> None:
        self.store.now += tenths * SECOND // 10

    @invariant()
    def the_counts_of_groups_are_those_of_a_recount(self) -> None:
        members = {key: [GroupMove()] for key in self.store.groups}
        for job in self.store.jobs.values():
            if job.group_key is not None:
                members[job.group_key].append(move_of(None, job, is_group=job.group_depth > 0))
        # Tokens are added to all groups around: the inner ones come last.
        for key, row in sorted(self.store.groups.items(), reverse=True):
            total = GroupMove(*map(sum, zip(*members[key], strict=True)))
            assert row.group.counts == total
            if row.parent_key is not None:
                members[row.parent_key].append(GroupMove(tokens=total.tokens, cost_nano=total.cost_nano))

    @invariant()
    def open_needs_are_those_that_are_not_met_yet(self) -> None:
        kept: Counter[int] = Counter()
        for job in self.store.jobs.values():
            needs = [self.store.needs[job.create_sequence, place] for place in range(job.needs_count)]
            if not job.state.is_final:
                kept.update(need.parent_key for need in needs)
            if job.held and job.state is JobState.QUEUED:
                assert job.open_needs == sum(need.outcome is None for need in needs)
        assert kept == Counter({key: count for key, count in self.store.needed.items() if count})

    @invariant()
    def a_group_with_something_to_do_is_due(self) -> None:
        for row in self.store.groups.values():
            group = row.group
            if group.unfinished and group.stopping:
                assert row.due_time is not None
            if not group.is_final and not group.unfinished and (group.closed or group.stopping):
                assert row.due_time is not None

    @invariant()
    def the_tallies_are_those_of_a_recount(self) -> None:
        jobs = self.store.jobs.values()
        expected = {
            (Measure.GROUPS, 0): sum(job.group_depth > 0 and job.state is JobState.PROCESSING for job in jobs),
            (Measure.HELD, WaitReason.NEEDS): sum(job.held and job.open_needs > 0 for job in jobs),
            (Measure.HELD, WaitReason.TIME): sum(job.held and not job.open_needs for job in jobs),
        }
        for (measure, bucket), count in expected.items():
            assert self.store.tallies.get((TYPE, measure, bucket), 0) == count

    def teardown(self) -> None:
        self.finish()
        self.check_needs()
        self.check_groups()

    def finish(self) -> None:
        """Work on all that is ready until everything has ended."""
        for group in self.groups():
            self.store.do(c.CloseGroup(job_id=group.id))
        for _ in range(10 * self.count + 10):
            self.store.now += SECOND
            self.store.settle()
            for job in self.running():
                self.store.do(c.Complete(job_id=job.id, attempt=job.attempt))
            self.store.do(c.Acquire(job_types=(TYPE,), max_jobs=3))
        assert [job.id for job in self.store.jobs.values() if not job.state.is_final] == []
        assert not self.store.is_due()

    def ended(self) -> dict[str, int]:
        """When each job ended, by its sequence. Each ended once."""
        ends = [told for told in self.store.log if told.type in ENDS]
        assert len({told.job_id for told in ends}) == len(ends) == len(self.store.jobs)
        return {told.job_id: told.sequence for told in ends}

    def check_needs(self) -> None:
        ended = self.ended()
        started = {told.job_id: told.sequence for told in self.store.log if told.type is EventType.STARTED}
        for need in self.store.needs.values():
            child, parent = self.store.jobs[need.child_id], self.store.jobs[need.parent_id]
            met = is_met(need.condition, parent.state)
            if child.attempt:
                assert met
                assert ended[parent.id] < started[child.id]
            if child.cancel_cause == CancelCause.NEED and child.cancel_cause_id == parent.id:
                assert not met
                assert ended[parent.id] < ended[child.id]

    def check_groups(self) -> None:
        ended = self.ended()
        for key, row in self.store.groups.items():
            group = self.store.jobs[row.group_id]
            members = [job for job in self.store.jobs.values() if job.group_key == key]
            assert row.group.is_final
            if group.state is JobState.CANCELLED:
                started = [told for told in self.store.log if told.type is EventType.STARTED]
                assert not [
                    told
                    for told in started
                    if told.sequence > ended[group.id] and told.job_id in {job.id for job in members}
                    if not told.event.started.resumed
                ]
                continue
            assert all(ended[job.id] < ended[group.id] for job in members)
            failures = sum(job.state is not JobState.COMPLETED for job in members)
            failed = row.group.policy.is_exceeded(failures)
            assert group.state is (JobState.PERMANENTLY_FAILED if failed else JobState.COMPLETED)
            end = next(told for told in self.store.log if told.sequence == ended[group.id])
            assert end.event.job.members.total == len(members)
            assert end.event.job.state == job_pb2.JobState.ValueType(group.state)


TestRelations = Relations.TestCase
TestRelations.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
