"""The lifecycle is exactly the table of the design, in the code, in the docs and on the wire."""

from __future__ import annotations

import itertools
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from transitions import MachineError

from jobstate.v1 import event_pb2, job_pb2, job_service_pb2
from jobstate_server.domain import lifecycle
from jobstate_server.domain.events import EVENT_NAMES, EventType, RetryDecision
from jobstate_server.domain.groups import OnExcess
from jobstate_server.domain.job import FINAL_STATES, AttemptOutcome, Job, JobError, JobState
from jobstate_server.domain.lifecycle import STEPS, Trigger, allowed_triggers, next_state
from jobstate_server.domain.needs import NeedCondition
from jobstate_server.domain.waiting import CancelCause, Priority, UniqueUntil, WaitReason

NOW = 1_000_000
DOCS = Path(__file__).parents[2] / "docs" / "lifecycle.md"

TABLE = {
    ("QUEUED", "start"): ("PROCESSING", "is_not_held"),
    ("QUEUED", "expedite"): ("QUEUED", "is_delayed"),
    ("QUEUED", "ready"): ("QUEUED", "delay_is_over"),
    ("QUEUED", "cancel"): ("CANCELLED", None),
    ("PROCESSING", "claim"): ("PROCESSING", "is_unclaimed"),
    ("PROCESSING", "progress"): ("PROCESSING", None),
    ("PROCESSING", "complete"): ("COMPLETED", None),
    ("PROCESSING", "fail"): ("FAILED", None),
    ("PROCESSING", "release"): ("RETRYING", None),
    ("PROCESSING", "cancel"): ("CANCELLED", None),
    ("FAILED", "retry"): ("RETRYING", "can_retry"),
    ("FAILED", "give_up"): ("PERMANENTLY_FAILED", "cannot_retry"),
    ("FAILED", "cancel"): ("CANCELLED", None),
    ("RETRYING", "expedite"): ("PROCESSING", None),
    ("RETRYING", "resume"): ("PROCESSING", "wait_is_over"),
    ("RETRYING", "cancel"): ("CANCELLED", None),
}
"""The table of the design, by hand: from (state, trigger) to (state, guard). What is not here is refused."""

PAIRS = tuple(itertools.product(JobState, Trigger))


def job_in(
    state: JobState, claimed: bool, error: str, retries_left: bool, wait: str, delay: str = "none", needs: bool = False
) -> tuple[Job, dict[str, bool]]:
    """A job in ``state`` with the properties that guards look at, and what each guard must say of it."""
    errors = {
        "none": None,
        "retryable": JobError("E", "", True, b"", 1, 0),
        "not retryable": JobError("E", "", False, b"", 1, 0),
    }
    waits = {"none": None, "over": NOW - 1, "over right now": NOW, "not over": NOW + 1}
    job = Job(
        id="job",
        job_type="default",
        state=state,
        claimed=claimed,
        last_error=errors[error],
        retry_count=2,
        max_retries=3 if retries_left else 2,
        next_retry_time=waits[wait],
        held=delay != "none" or needs,
        open_needs=int(needs),
        ready_time=waits[delay] or 0,
    )
    can_retry = error == "retryable" and retries_left
    guards = {
        "is_unclaimed": not claimed,
        "can_retry": can_retry,
        "cannot_retry": not can_retry,
        "wait_is_over": wait in ("over", "over right now"),
        "is_delayed": delay == "not over" or (delay != "none" and not needs),
        "is_not_held": delay == "none" and not needs,
        "delay_is_over": delay in ("over", "over right now") and not needs,
    }
    return job, guards


GUARD_FACTS = tuple(
    itertools.product(
        (True, False),
        ("none", "retryable", "not retryable"),
        (True, False),
        ("none", "over", "over right now", "not over"),
        ("none", "over", "over right now", "not over"),
        (False, True),
    )
)


def expected_state(state: JobState, trigger: Trigger, guards: dict[str, bool]) -> JobState | None:
    target, guard = TABLE.get((state.name, trigger.value), (None, None))
    if target is None or (guard is not None and not guards[guard]):
        return None
    return JobState[target]


class Model:
    """Something for the machine to move about. ``state`` is set by it."""

    state: str


def run_machine(trigger: Trigger, job: Job) -> JobState | None:
    """What the ``transitions`` machine itself does with a model that is thrown away afterwards."""
    model = Model()
    lifecycle.MACHINE.add_model(model, initial=job.state.name)
    try:
        moved = lifecycle.MACHINE.events[trigger.value].trigger(model, job, NOW)
    except MachineError:
        moved = False
    finally:
        lifecycle.MACHINE.remove_model(model)
    return JobState[model.state] if moved else None


@pytest.mark.parametrize(("state", "trigger"), PAIRS, ids=lambda value: value.name)
def test_a_pair_of_state_and_trigger_is_allowed_exactly_as_the_table_says(state: JobState, trigger: Trigger) -> None:
    for facts in GUARD_FACTS:
        job, guards = job_in(state, *facts)

        assert next_state(trigger, job, NOW) is expected_state(state, trigger, guards), facts


@pytest.mark.parametrize(("state", "trigger"), PAIRS, ids=lambda value: value.name)
def test_the_compiled_table_agrees_with_the_machine_that_it_was_compiled_from(
    state: JobState, trigger: Trigger
) -> None:
    for facts in GUARD_FACTS:
        job, _ = job_in(state, *facts)

        assert next_state(trigger, job, NOW) is run_machine(trigger, job), facts


def test_the_steps_are_exactly_the_table() -> None:
    steps = {
        (step.source.name, step.trigger.value): (step.target.name, step.guard.__name__ if step.guard else None)
        for step in STEPS
    }

    assert steps == TABLE
    assert len(STEPS) == len(TABLE)


def test_the_shared_machine_has_no_model() -> None:
    assert lifecycle.MACHINE.models == []


def test_start_moves_queued_to_processing() -> None:
    assert next_state(Trigger.START, Job(id="job", job_type="t"), NOW) is JobState.PROCESSING


def test_progress_changes_no_state_and_is_allowed_in_processing_only() -> None:
    for state in JobState:
        target = next_state(Trigger.PROGRESS, Job(id="job", job_type="t", state=state), NOW)

        assert target is (JobState.PROCESSING if state is JobState.PROCESSING else None)


def test_the_final_states_are_the_three_and_nothing_leads_out_of_them() -> None:
    assert {state for state in JobState if state.is_final} == {
        JobState.COMPLETED,
        JobState.PERMANENTLY_FAILED,
        JobState.CANCELLED,
    }
    assert not [step for step in STEPS if step.source in FINAL_STATES]
    assert not [state for state in JobState if state not in FINAL_STATES and state not in {s.source for s in STEPS}]


def test_every_state_is_reached_from_queued() -> None:
    reached = {JobState.QUEUED}
    for _ in JobState:
        reached |= {step.target for step in STEPS if step.source in reached}

    assert reached == set(JobState)


@pytest.mark.parametrize(
    ("state", "claimed", "wait", "allowed"),
    [
        (JobState.QUEUED, False, "none", ("start", "cancel")),
        (JobState.PROCESSING, True, "none", ("progress", "complete", "fail", "release", "cancel")),
        (JobState.PROCESSING, False, "none", ("claim", "progress", "complete", "fail", "release", "cancel")),
        (JobState.FAILED, True, "none", ("retry", "cancel")),
        (JobState.RETRYING, True, "not over", ("expedite", "cancel")),
        (JobState.RETRYING, True, "over", ("expedite", "cancel")),
        (JobState.COMPLETED, True, "none", ()),
        (JobState.PERMANENTLY_FAILED, True, "none", ()),
        (JobState.CANCELLED, True, "none", ()),
    ],
)
def test_allowed_triggers_are_what_a_caller_can_do_and_never_the_servers_own(
    state: JobState, claimed: bool, wait: str, allowed: tuple[str, ...]
) -> None:
    job, _ = job_in(state, claimed, "retryable", True, wait)

    assert allowed_triggers(job, NOW) == allowed


def test_a_job_that_is_delayed_may_be_hurried_or_cancelled_by_a_caller() -> None:
    for delay in ("not over", "over"):
        job, _ = job_in(JobState.QUEUED, False, "none", True, "none", delay)

        assert allowed_triggers(job, NOW) == ("expedite", "cancel")


def test_a_failed_job_without_retries_left_may_only_be_cancelled_by_a_caller() -> None:
    job, _ = job_in(JobState.FAILED, True, "retryable", False, "none")

    assert allowed_triggers(job, NOW) == ("cancel",)


def test_event_names_are_those_of_the_original_and_seven_more() -> None:
    original = {
        EventType.STARTED: "processing-job.started",
        EventType.PROGRESS: "processing-job.progress",
        EventType.COMPLETED: "processing-job.completed",
        EventType.FAILED: "processing-job.failed",
        EventType.RETRYING: "processing-job.retrying",
        EventType.PERMANENTLY_FAILED: "processing-job.permanently-failed",
        EventType.CANCELLED: "processing-job.cancelled",
        EventType.STALE_DETECTED: "processing-job.stale.detected",
    }
    added = {
        EventType.QUEUED: "processing-job.queued",
        EventType.CLAIMED: "processing-job.claimed",
        EventType.DELETED: "processing-job.deleted",
        EventType.USAGE: "processing-job.usage",
        EventType.READY: "processing-job.ready",
        EventType.RELEASED: "processing-job.released",
        EventType.WAITING: "processing-job.waiting",
    }

    assert original | added == EVENT_NAMES
    assert set(EVENT_NAMES) == set(EventType)


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (JobState, job_pb2.JobState, "JOB_STATE_"),
        (AttemptOutcome, job_pb2.AttemptOutcome, "ATTEMPT_OUTCOME_"),
        (EventType, event_pb2.EventType, "EVENT_TYPE_"),
        (RetryDecision, event_pb2.RetryDecision, "RETRY_DECISION_"),
        (Priority, job_pb2.Priority, "PRIORITY_"),
        (WaitReason, job_pb2.WaitReason, "WAIT_REASON_"),
        (CancelCause, job_pb2.CancelCause, "CANCEL_CAUSE_"),
        (UniqueUntil, job_service_pb2.UniqueUntil, "UNIQUE_UNTIL_"),
        (NeedCondition, job_pb2.NeedCondition, "NEED_CONDITION_"),
        (OnExcess, job_pb2.OnExcess, "ON_EXCESS_"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_names_and_numbers_of_an_enum_are_the_same_on_the_wire(ours: type[IntEnum], wire: Any, prefix: str) -> None:
    expected = {f"{prefix}{member.name}": member.value for member in ours}

    assert dict(wire.items()) == {f"{prefix}UNSPECIFIED": 0} | expected


def test_the_proto_comment_of_each_event_type_begins_with_the_name_that_the_event_carries() -> None:
    proto = (Path(__file__).parents[2] / "protos" / "jobstate" / "v1" / "event.proto").read_text(encoding="utf-8")
    for type_, name in EVENT_NAMES.items():
        comment, _ = proto.split(f"  EVENT_TYPE_{type_.name} = {type_.value};")

        assert comment.rsplit("\n\n", 1)[1].lstrip().startswith(f'// "{name}"')


def table_of_the_docs() -> list[list[str]]:
    """The rows of the first table under "Steps", without its head, as plain texts."""
    section = DOCS.read_text(encoding="utf-8").split("\n## Steps\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_docs_have_exactly_the_table() -> None:
    words = {
        None: "",
        "is_unclaimed": "attempt is unclaimed",
        "can_retry": "can_retry",
        "cannot_retry": "not can_retry",
        "wait_is_over": "wait is over",
        "is_delayed": "job is delayed",
        "is_not_held": "job is not held back",
        "delay_is_over": "delay is over",
    }
    expected = [("create", "–", "QUEUED", "")]
    for step in STEPS:
        guard = words[step.guard.__name__ if step.guard else None]
        expected.append((step.trigger.value, step.source.name, step.target.name, guard))

    documented = [
        (trigger, source, target, guard)
        for trigger, sources, target, guard, _ in table_of_the_docs()
        for source in sources.split(", ")
    ]

    assert documented == expected


def test_the_docs_name_the_event_of_every_step() -> None:
    documented = {trigger: event for trigger, _, target, _, event in table_of_the_docs() if target != "QUEUED"}
    documented |= {f"{trigger} QUEUED": event for trigger, _, to, _, event in table_of_the_docs() if to == "QUEUED"}

    assert documented == {
        "create QUEUED": ".queued",
        "expedite QUEUED": ".ready",
        "ready QUEUED": ".ready",
        "release": ".released",
        "start": ".started",
        "claim": ".claimed",
        "progress": ".progress",
        "complete": ".completed",
        "fail": ".failed",
        "retry": ".retrying",
        "give_up": ".permanently-failed",
        "expedite": ".started",
        "resume": ".started",
        "cancel": ".cancelled",
    }
    assert {f"processing-job{event}" for event in documented.values()} | {
        "processing-job.stale.detected",
        "processing-job.deleted",
        "processing-job.usage",
        "processing-job.waiting",
    } == set(EVENT_NAMES.values())


def test_the_docs_have_exactly_the_diagram() -> None:
    fences = DOCS.read_text(encoding="utf-8").split("```mermaid\n")[1:]

    assert [fence.split("```\n")[0] for fence in fences] == [lifecycle.mermaid()]


def test_the_diagram_draws_every_step_and_no_other() -> None:
    drawn = set()
    for line in lifecycle.mermaid().splitlines():
        ends, separator, labels = line.strip().partition(": ")
        if " --> " in ends and separator:
            source, target = ends.split(" --> ")
            drawn |= {(source, label.split(" [")[0], target) for label in labels.split(" | ")}

    assert drawn == {(step.source.name, step.trigger.value, step.target.name) for step in STEPS}
