"""Enums whose members are plain attributes are enums all the same."""

from __future__ import annotations

from enum import Enum

import pytest

from jobstate_server.domain.events import EventType, RetryDecision
from jobstate_server.domain.job import AttemptOutcome, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.statistics import Measure


@pytest.mark.parametrize("enum", [AttemptOutcome, EventType, JobState, Measure, RetryDecision, Trigger])
def test_a_member_is_found_by_name_by_value_and_as_an_attribute(enum: type[Enum]) -> None:
    assert list(enum)
    for member in enum:
        assert (
            vars(enum)[member.name] is getattr(enum, member.name) is enum[member.name] is enum(member.value) is member
        )
