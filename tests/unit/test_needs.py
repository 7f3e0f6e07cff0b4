"""Needs: when they are met, and what a job must wait for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.job import FINAL_STATES, JobState
from jobstate_server.domain.needs import Need, NeedCondition, is_met, standing

MET = {
    NeedCondition.COMPLETED: {JobState.COMPLETED},
    NeedCondition.FINAL: set(FINAL_STATES),
    NeedCondition.NOT_COMPLETED: {JobState.PERMANENTLY_FAILED, JobState.CANCELLED},
}


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("condition", NeedCondition)
def test_a_need_is_met_by_the_ends_that_its_condition_allows(condition: NeedCondition, state: JobState) -> None:
    expected = (state in MET[condition]) if state in FINAL_STATES else None

    assert is_met(condition, state) is expected


NEEDS = st.lists(st.tuples(st.sampled_from(NeedCondition), st.sampled_from(JobState)), max_size=100)


@given(NEEDS)
def test_a_job_waits_for_what_is_not_final_unless_a_need_cannot_be_met(
    found: list[tuple[NeedCondition, JobState]],
) -> None:
    needs = [(Need(f"job-{place}", condition), state) for place, (condition, state) in enumerate(found)]

    result = standing(needs)

    ruled_out = [need.job_id for need, state in needs if state.is_final and state not in MET[need.condition]]
    assert result.impossible == next(iter(ruled_out), "")
    if not ruled_out:
        assert result.open == tuple(place for place, (_, state) in enumerate(needs) if not state.is_final)
