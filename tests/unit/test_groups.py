"""Groups: how their members count, when they take more, and how they end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.groups import (
    TOLERATES_ANY,
    Group,
    GroupMove,
    GroupPolicy,
    GroupStep,
    OnExcess,
    move_of,
    next_step,
    refusal_to_add,
)
from jobstate_server.domain.job import FINAL_STATES, INT64_MAX, Job, JobState


def a_member(state: JobState = JobState.QUEUED, progress: int = 0, tokens: int = 0, cost_nano: int = 0) -> Job:
    return Job(
        id="job",
        job_type="clean",
        state=state,
        progress=progress,
        estimated_tokens=tokens,
        estimated_cost_nano=cost_nano,
    )


MEMBERS = st.builds(
    a_member, st.sampled_from(JobState), st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 10**12)
)
POLICIES = st.builds(GroupPolicy, st.integers(-1, 5), st.sampled_from(OnExcess))


@given(POLICIES, st.lists(st.lists(MEMBERS, min_size=1, max_size=4), max_size=10))
def test_the_counts_are_those_of_a_count_over_the_members(policy: GroupPolicy, histories: list[list[Job]]) -> None:
    group = Group(policy)
    for history in histories:
        for before, after in zip([None, *history], history, strict=False):
            group = group.moved(move_of(before, after))

    members = [history[-1] for history in histories]
    states = [member.state for member in members]
    assert group.counts[:4] == (
        len(members),
        states.count(JobState.COMPLETED),
        states.count(JobState.PERMANENTLY_FAILED),
        states.count(JobState.CANCELLED),
    )
    assert group.counts.tokens == sum(member.estimated_tokens for member in members)
    assert group.counts.cost_nano == sum(member.estimated_cost_nano for member in members)
    assert group.unfinished == sum(state not in FINAL_STATES for state in states)
    assert 0 <= group.progress <= 100


def test_the_progress_is_the_mean_and_ended_members_are_done_with() -> None:
    members = [a_member(progress=50), a_member(JobState.CANCELLED, progress=3), a_member()]
    group = Group(GroupPolicy())
    for member in members:
        group = group.moved(move_of(None, member))

    assert group.progress == 50


def test_a_group_that_is_a_member_adds_no_tokens_a_second_time() -> None:
    assert move_of(None, a_member(tokens=7, cost_nano=9), is_group=True) == GroupMove(total=1)


def test_sums_of_tokens_and_cost_stop_at_what_can_be_stored() -> None:
    full = Group(GroupPolicy(), GroupMove(1, tokens=INT64_MAX, cost_nano=INT64_MAX))

    counts = full.moved(GroupMove(tokens=1, cost_nano=1)).counts

    assert (counts.tokens, counts.cost_nano) == (INT64_MAX, INT64_MAX)


@pytest.mark.parametrize(
    ("group", "by_member", "why"),
    [
        (Group(GroupPolicy()), False, ""),
        (Group(GroupPolicy(), closed=True), False, "closed"),
        (Group(GroupPolicy(), closed=True), True, ""),
        (Group(GroupPolicy(), closed=True, stopping=True), True, "stopping"),
        (Group(GroupPolicy(), stopping=True), False, "stopping"),
        (Group(GroupPolicy(), closed=True, stopping=True, is_final=True), True, "final"),
    ],
)
def test_only_a_running_member_adds_to_a_closed_group(group: Group, by_member: bool, why: str) -> None:
    assert refusal_to_add(group, by_member=by_member) == why


def test_an_open_group_waits_although_all_its_members_have_ended() -> None:
    group = Group(GroupPolicy()).moved(GroupMove(total=1, completed=1))

    assert next_step(group) is None
    assert next_step(replace(group, closed=True)) is GroupStep.COMPLETE


def test_an_empty_group_completes_once_it_is_closed() -> None:
    assert next_step(Group(GroupPolicy(), closed=True)) is GroupStep.COMPLETE


def test_a_cancelled_group_cancels_its_members_and_then_does_nothing() -> None:
    group = Group(GroupPolicy(), GroupMove(total=2, completed=1), stopping=True, is_final=True)

    assert next_step(group) is GroupStep.CANCEL_MEMBERS
    assert next_step(group.moved(GroupMove(cancelled=1))) is None


@given(POLICIES, st.lists(st.sampled_from(sorted(FINAL_STATES)), max_size=12))
def test_a_closed_group_ends_once_by_its_failures(policy: GroupPolicy, ends: list[JobState]) -> None:
    """The model: a list of ends, of which the server turns what is left into CANCELLED once there are too many."""
    group = Group(policy, closed=True).moved(GroupMove(total=len(ends)))
    failures = 0
    for number, end in enumerate(ends):
        assert (next_step(group) is GroupStep.CANCEL_MEMBERS) is group.stopping
        state = JobState.CANCELLED if group.stopping else end
        group = group.moved(move_of(a_member(), a_member(state)))
        failures += state is not JobState.COMPLETED
        is_exceeded = policy.tolerated_failures != TOLERATES_ANY and failures > policy.tolerated_failures
        assert group.stopping is (is_exceeded and policy.on_excess is OnExcess.CANCEL)
        if number < len(ends) - 1:
            assert next_step(group) in (None, GroupStep.CANCEL_MEMBERS)

    exceeds = policy.tolerated_failures != TOLERATES_ANY and failures > policy.tolerated_failures
    assert next_step(group) is (GroupStep.FAIL if exceeds else GroupStep.COMPLETE)
    assert next_step(replace(group, is_final=True)) is None
