"""Random needs and groups: every job ends, groups end after their members, and the counts are those of a recount.

A small server, written here by hand, asks the rules of the domain what to do, one slice at a time and in any order.
What must hold is said about its jobs and its log, in plain words.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobstate_server.domain.groups import (
    DEPTH_MAX,
    TOLERATES_ANY,
    Group,
    GroupPolicy,
    GroupStep,
    OnExcess,
    move_of,
    next_step,
    refusal_to_add,
)
from jobstate_server.domain.job import FINAL_STATES, Job, JobState
from jobstate_server.domain.needs import Need, NeedCondition, is_met, standing
from jobstate_server.domain.wait_order import (
    PROVISIONAL,
    GroupPath,
    from_text,
    is_before,
    is_settled,
    latest,
    may_wait,
    settled,
    to_text,
)

MET = {
    NeedCondition.COMPLETED: {JobState.COMPLETED},
    NeedCondition.FINAL: set(FINAL_STATES),
    NeedCondition.NOT_COMPLETED: {JobState.PERMANENTLY_FAILED, JobState.CANCELLED},
}

SLICE = 2
"""Few, so that many steps fall between two slices."""


@dataclass
class Node:
    """A job with its relations. Its place in the list of jobs is its key."""

    job: Job
    around: int | None
    """The group that it is a member of."""
    needs: list[tuple[int, NeedCondition]]
    group: Group | None = None
    path: GroupPath = ()
    waits_for: GroupPath | None = None
    open: set[int] = field(default_factory=set)
    """The needed jobs of which the end has not reached it."""
    cause: int | None = None
    """The job that it was cancelled for."""

    @property
    def is_final(self) -> bool:
        return self.job.state.is_final


class Relations(RuleBasedStateMachine):
    """Callers create, end, cancel and close. The server takes one due parent or group at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.ends: list[int] = []
        """The log: which jobs ended, in order."""
        self.told: set[int] = set()
        """The final jobs whose end has reached all that need them."""

    # What the small server does.

    def change(self, key: int, **changes: Any) -> None:
        node = self.nodes[key]
        before, node.job = node.job, replace(node.job, **changes)
        if node.is_final and not before.state.is_final:
            self.ends.append(key)
            if node.group is not None:
                node.group = replace(node.group, is_final=True)
        if node.around is not None:
            self.count(node.around, before, node)

    def count(self, around: int, before: Job | None, member: Node) -> None:
        group = self.nodes[around].group
        assert group is not None
        self.nodes[around].group = group.moved(move_of(before, member.job, is_group=member.group is not None))

    def cancel_for(self, key: int, cause: int | None) -> None:
        node = self.nodes[key]
        if node.group is not None:
            node.group = replace(node.group, stopping=True)
        node.cause = cause
        self.change(key, state=JobState.CANCELLED)

    def is_stopped(self, key: int | None) -> bool:
        while key is not None:
            node = self.nodes[key]
            if node.group is not None and node.group.stopping:
                return True
            key = node.around
        return False

    def startable(self) -> list[int]:
        return [
            key
            for key, node in enumerate(self.nodes)
            if node.job.state is JobState.QUEUED and not node.open and not self.is_stopped(node.around)
        ]

    def running(self) -> list[int]:
        return [
            key for key, node in enumerate(self.nodes) if node.job.state is JobState.PROCESSING and node.group is None
        ]

    def groups(self) -> list[int]:
        return [key for key, node in enumerate(self.nodes) if node.group is not None]

    def children(self, parent: int) -> list[int]:
        return [key for key, node in enumerate(self.nodes) if parent in node.open]

    def due(self) -> list[int]:
        parents = [key for key, node in enumerate(self.nodes) if node.is_final and key not in self.told]
        return parents + [key for key in self.groups() if next_step(self.group(key)) is not None]

    def group(self, key: int) -> Group:
        group = self.nodes[key].group
        assert group is not None
        return group

    def serve(self, key: int) -> None:
        if self.nodes[key].is_final and key not in self.told:
            self.tell_children(key)
        else:
            self.run_group(key)

    def tell_children(self, parent: int) -> None:
        for child in self.children(parent)[:SLICE]:
            node = self.nodes[child]
            node.open.discard(parent)
            conditions = [condition for needed, condition in node.needs if needed == parent]
            if not node.is_final and not is_met(conditions[0], self.nodes[parent].job.state):
                self.cancel_for(child, parent)
        if not self.children(parent):
            self.told.add(parent)

    def run_group(self, key: int) -> None:
        step = next_step(self.group(key))
        if step is GroupStep.CANCEL_MEMBERS:
            members = [at for at, node in enumerate(self.nodes) if node.around == key and not node.is_final]
            for member in members[:SLICE]:
                self.cancel_for(member, key)
        elif step is not None:
            ended = JobState.COMPLETED if step is GroupStep.COMPLETE else JobState.PERMANENTLY_FAILED
            self.change(key, state=ended)

    # What callers do.

    @rule(data=st.data(), makes_group=st.booleans(), is_member=st.booleans())
    def create(self, data: st.DataObject, makes_group: bool, is_member: bool) -> None:
        around = data.draw(st.sampled_from(self.groups())) if is_member and self.groups() else None
        by_member = around is not None and any(self.nodes[key].around == around for key in self.running())
        if around is not None and (
            refusal_to_add(self.group(around), by_member=by_member) or self.is_stopped(self.nodes[around].around)
        ):
            return
        if makes_group:
            self.create_group(data, around)
        else:
            self.create_job(data, around)

    def create_group(self, data: st.DataObject, around: int | None) -> None:
        path = (*(() if around is None else self.nodes[around].path), len(self.nodes))
        if len(path) > DEPTH_MAX:
            return
        policy = GroupPolicy(data.draw(st.integers(-1, 2)), data.draw(st.sampled_from(OnExcess)))
        job = Job(id=str(len(self.nodes)), job_type="day", state=JobState.PROCESSING)
        self.add(Node(job, around, [], Group(policy), path))

    def create_job(self, data: st.DataObject, around: int | None) -> None:
        needed = data.draw(st.sets(st.sampled_from(range(len(self.nodes))), max_size=3)) if self.nodes else set()
        needs = [(key, data.draw(st.sampled_from(NeedCondition))) for key in sorted(needed)]
        found = standing(
            (Need(self.nodes[key].job.id, condition), self.nodes[key].job.state) for key, condition in needs
        )
        open_needs = {needs[place][0] for place in found.open}
        waits_for = latest(self.awaited(key) for key in open_needs)
        if around is not None and not may_wait(self.nodes[around].path, waits_for):
            return
        node = Node(Job(id=str(len(self.nodes)), job_type="clean"), around, needs, waits_for=waits_for, open=open_needs)
        key = self.add(node)
        if found.impossible:
            self.cancel_for(key, int(found.impossible))

    def awaited(self, key: int) -> GroupPath | None:
        """Which group a job waits for at the latest."""
        node = self.nodes[key]
        if node.group is not None:
            return node.path
        return node.waits_for if node.open else None

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        if node.around is not None:
            self.count(node.around, None, node)
        return len(self.nodes) - 1

    @precondition(lambda self: self.startable())
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.change(data.draw(st.sampled_from(self.startable())), state=JobState.PROCESSING)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), state=st.sampled_from(sorted(FINAL_STATES)))
    def end(self, data: st.DataObject, state: JobState) -> None:
        self.change(data.draw(st.sampled_from(self.running())), state=state)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), progress=st.integers(0, 100), tokens=st.integers(0, 9))
    def report(self, data: st.DataObject, progress: int, tokens: int) -> None:
        key = data.draw(st.sampled_from(self.running()))
        used = self.nodes[key].job.estimated_tokens + tokens
        self.change(key, progress=progress, estimated_tokens=used)

    @precondition(lambda self: not all(node.is_final for node in self.nodes))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        living = [key for key, node in enumerate(self.nodes) if not node.is_final]
        self.cancel_for(data.draw(st.sampled_from(living)), None)

    @precondition(lambda self: self.groups())
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        node = self.nodes[data.draw(st.sampled_from(self.groups()))]
        assert node.group is not None
        node.group = replace(node.group, closed=True)

    @precondition(lambda self: self.due())
    @rule(data=st.data())
    def serve_one(self, data: st.DataObject) -> None:
        self.serve(data.draw(st.sampled_from(self.due())))

    # What must hold.

    @invariant()
    def nothing_begins_before_its_needs_are_met(self) -> None:
        for node in self.nodes:
            if node.job.state not in (JobState.QUEUED, JobState.CANCELLED):
                assert all(self.nodes[key].job.state in MET[condition] for key, condition in node.needs)

    @invariant()
    def a_job_is_cancelled_for_a_need_that_can_never_be_met_or_for_a_group_that_stops(self) -> None:
        for node in self.nodes:
            if node.cause is None:
                continue
            if node.cause == node.around:
                assert self.group(node.cause).stopping
            else:
                needed = self.nodes[node.cause].job.state
                assert needed in FINAL_STATES - MET[dict(node.needs)[node.cause]]

    @invariant()
    def the_counts_are_those_of_a_recount(self) -> None:
        for key in self.groups():
            members = [node.job for node in self.nodes if node.around == key]
            states = [member.state for member in members]
            assert self.group(key).counts[:4] == (
                len(members),
                states.count(JobState.COMPLETED),
                states.count(JobState.PERMANENTLY_FAILED),
                states.count(JobState.CANCELLED),
            )
            own = [node.job.estimated_tokens for node in self.nodes if node.around == key and node.group is None]
            assert self.group(key).counts.tokens == sum(own)

    @invariant()
    def a_group_ends_once_and_after_its_members(self) -> None:
        assert len(set(self.ends)) == len(self.ends)
        for key in self.groups():
            node = self.nodes[key]
            if node.is_final and node.job.state is not JobState.CANCELLED:
                end = self.ends.index(key)
                assert all(
                    self.ends.index(member) < end for member, other in enumerate(self.nodes) if other.around == key
                )

    @invariant()
    def a_group_fails_only_by_more_failures_than_it_tolerates(self) -> None:
        for key in self.groups():
            policy, state = self.group(key).policy, self.nodes[key].job.state
            failed = sum(
                node.is_final and node.job.state is not JobState.COMPLETED for node in self.nodes if node.around == key
            )
            excess = policy.tolerated_failures != TOLERATES_ANY and failed > policy.tolerated_failures
            assert not (state is JobState.COMPLETED and excess)
            assert not (state is JobState.PERMANENTLY_FAILED and not excess)

    @invariant()
    def a_group_stops_by_itself_when_it_is_to_cancel_the_rest(self) -> None:
        for key in self.groups():
            group = self.group(key)
            failed = group.counts.permanently_failed + group.counts.cancelled
            tolerated = group.policy.tolerated_failures
            if group.policy.on_excess is OnExcess.CANCEL and tolerated != TOLERATES_ANY and failed > tolerated:
                assert group.stopping

    def teardown(self) -> None:
        """Every group is closed and workers end all that is handed out: then every job ends."""
        for key in self.groups():
            self.nodes[key].group = replace(self.group(key), closed=True)
        while work := [*self.due(), *self.startable(), *self.running()]:
            for key in work:
                if key in self.due():
                    self.serve(key)
                elif self.nodes[key].job.state in (JobState.QUEUED, JobState.PROCESSING) and not self.nodes[key].group:
                    self.change(key, state=JobState.COMPLETED)
        assert [key for key, node in enumerate(self.nodes) if not node.is_final] == []
        self.the_counts_are_those_of_a_recount()
        self.a_group_ends_once_and_after_its_members()
        self.a_group_fails_only_by_more_failures_than_it_tolerates()


TestRelations = Relations.TestCase
TestRelations.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


KEYS = st.integers(1, 6)
PATHS = st.lists(KEYS, min_size=1, max_size=DEPTH_MAX, unique=True).map(sorted).map(tuple)


@given(PATHS, PATHS, PATHS)
def test_groups_have_one_order(first: GroupPath, second: GroupPath, third: GroupPath) -> None:
    assert is_before(first, second) + is_before(second, first) + (first == second) == 1
    if is_before(first, second) and is_before(second, third):
        assert is_before(first, third)
    assert latest([None, first, second]) == (first if is_before(second, first) else second)


@pytest.mark.parametrize(
    ("group", "awaited", "may"),
    [
        ((1,), None, True),
        ((1,), (1,), False),
        ((1, 2), (1,), False),
        ((1,), (1, 2), True),
        ((1, 3), (1, 2), True),
        ((1, 2), (1, 3), False),
        ((2,), (1,), True),
        ((1,), (2,), False),
        ((2, 5), (1, 9), True),
    ],
    ids=str,
)
def test_a_member_waits_for_groups_in_its_own_and_for_older_ones(
    group: GroupPath, awaited: GroupPath | None, may: bool
) -> None:
    assert may_wait(group, awaited) is may


@given(st.lists(st.integers(1, 50), max_size=4), st.lists(st.integers(0, 9), min_size=1, max_size=4), PATHS)
def test_groups_that_are_being_made_keep_their_order_when_they_are_stored(
    stored: list[int], made: list[int], other: GroupPath
) -> None:
    path = (*stored, *(PROVISIONAL + number for number in made))

    numbered = settled(path, range(51, 71, 2))

    assert not is_settled(path)
    assert is_settled(numbered)
    assert numbered == (*stored, *(51 + 2 * number for number in made))
    assert is_before(other, path) is is_before(other, numbered)
    assert from_text(to_text(numbered)) == numbered
