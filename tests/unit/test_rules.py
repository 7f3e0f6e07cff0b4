"""What every trigger sets, clears or leaves, field by field, and which events it makes, in order.

Each case names every field that changes. Any other field of the job must be as it was, whatever fields a job may gain.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.events import (
    EventType,
)
from jobstate_server.domain.job import Attempt, Job, Usage
from jobstate_server.domain.lifecycle import Trigger

from .dispatch_cases import DISPATCH
from .rule_cases import BEGINNING, CANCELLING, ENDING, PROGRESSING, RETRIES, USAGE, Case
from .support import NOW, decide

CASES = [*BEGINNING, *PROGRESSING, *ENDING, *RETRIES, *CANCELLING, *DISPATCH]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.what.replace(" ", "_"))


def all_fields(job: Job) -> dict[str, Any]:
    """Every field that a job has, by introspection."""
    return {field.name: getattr(job, field.name) for field in fields(Job)}


def changed(before: Job, after: Job | None) -> dict[str, Any]:
    assert after is not None
    old = all_fields(before)
    return {name: value for name, value in all_fields(after).items() if value != old[name]}


def test_every_trigger_of_the_lifecycle_is_in_a_case() -> None:
    assert {trigger for case in CASES for trigger in case.triggers.split()} == {trigger.value for trigger in Trigger}


@every_case
def test_a_command_changes_exactly_the_fields_it_should(case: Case) -> None:
    decision = decide(case.job, case.command)

    assert changed(case.job, decision.after) == case.changes | {"update_time": NOW}


@every_case
def test_a_command_tells_exactly_its_events_in_order(case: Case) -> None:
    events = decide(case.job, case.command).events

    assert [(event.type, event.previous_state, event.job.state, event.detail) for event in events] == case.told
    assert all((event.time, event.actor) == (NOW, "somebody") for event in events)


@every_case
def test_the_last_event_carries_the_job_as_it_is_after_the_command(case: Case) -> None:
    decision = decide(case.job, case.command)

    assert decision.events[-1].job == decision.after


@every_case
def test_an_event_is_marked_with_the_documents_that_the_command_set(case: Case) -> None:
    events = decide(case.job, case.command).events
    documents = (getattr(case.command, "metadata", b""), getattr(case.command, "result", b""))

    own = [event for event in events if event.type is not EventType.CLAIMED]
    assert [(event.with_metadata, event.with_result) for event in own] == [
        (bool(documents[0]), bool(documents[1])) for _ in own
    ]
    assert not any(event.with_metadata or event.with_result for event in events if event not in own)


@every_case
def test_the_record_of_an_attempt_is_made_when_it_ends_and_only_then(case: Case) -> None:
    ended = decide(case.job, case.command).ended

    if case.outcome is None:
        assert ended is None
        return
    claims = "claim " in case.triggers
    usage = USAGE if "estimated_tokens" in case.changes else Usage(tokens=100, cost_nano=200)
    assert ended == Attempt(
        job_id="job",
        number=2,
        start_time=NOW - 20 * SECOND,
        claim_time=NOW if claims else case.job.claim_time,
        end_time=NOW,
        outcome=case.outcome,
        worker=case.job.worker,
        tokens=usage.tokens or 0,
        cost_nano=usage.cost_nano or 0,
        error=case.changes.get("last_error"),
    )
