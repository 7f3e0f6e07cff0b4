"""How a job comes to be, and which types of jobs may."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import InvalidField, JobExists, UnknownJobType
from jobstate_server.domain.events import Event, EventType
from jobstate_server.domain.job import Job, JobState

from .support import NOW, TOO_LARGE, a_decider, a_job, decide, refused


def a_create(job_type: str = "clean_transcript", **more: Any) -> c.Create:
    return c.Create(job_id="job", job_type=job_type, caller=Caller("principal", "somebody"), **more)


def test_create_sets_what_was_asked_and_leaves_the_rest_at_its_beginning() -> None:
    decision = decide(
        None,
        a_create(source_id="source", metadata=b"{new}", max_retries=9, timeout=7 * SECOND),
    )

    assert decision.after == Job(
        id="job",
        job_type="clean_transcript",
        source_id="source",
        principal="principal",
        state=JobState.QUEUED,
        metadata=b"{new}",
        max_retries=9,
        timeout=7 * SECOND,
        create_time=NOW,
        update_time=NOW,
        heard_time=NOW,
        ready_time=NOW,
    )
    assert list(decision.events) == [Event(EventType.QUEUED, NOW, "somebody", None, decision.after, with_metadata=True)]
    assert decision.ended is None


@pytest.mark.parametrize(
    ("job_type", "asked", "max_retries", "timeout"),
    [
        ("clean_transcript", {}, 3, 60 * SECOND),
        ("extract_insights", {"max_retries": 0}, 0, 120 * SECOND),
        ("clean_transcript", {"no_timeout": True}, 3, None),
        ("clean_transcript", {"timeout": SECOND}, 3, SECOND),
        ("default", {}, 3, None),
        ("unheard_of", {}, 3, None),
        ("unheard_of", {"timeout": SECOND, "max_retries": 1_000}, 1_000, SECOND),
    ],
)
def test_create_takes_from_the_type_what_was_not_asked(
    job_type: str, asked: dict[str, Any], max_retries: int, timeout: int | None
) -> None:
    job = decide(None, a_create(job_type, **asked)).after

    assert job is not None
    assert (job.job_type, job.max_retries, job.timeout) == (job_type, max_retries, timeout)


def test_the_event_of_a_job_without_metadata_carries_none() -> None:
    assert [event.with_metadata for event in decide(None, a_create()).events] == [False]


@pytest.mark.parametrize("state", JobState, ids=lambda state: state.name)
def test_create_of_a_job_that_exists_is_refused_in_every_state(state: JobState) -> None:
    assert refused(JobExists, a_job(state), a_create()).facts == {"job_id": "job"}


def test_metadata_that_cannot_be_merged_refuses_the_create() -> None:
    assert refused(InvalidField, None, a_create(metadata=TOO_LARGE)).field == "metadata"


def test_a_strict_server_refuses_types_that_the_config_does_not_name() -> None:
    decider = a_decider(strict=True)

    assert refused(UnknownJobType, None, a_create("unheard_of"), decider=decider).facts["job_type"] == "unheard_of"
    decide(None, a_create("clean_transcript"), decider=decider)
    decide(None, a_create("default"), decider=decider)


def test_no_more_unnamed_types_come_to_be_than_the_limit_and_those_that_did_stay_welcome() -> None:
    decider = a_decider(unnamed_types_max=2)
    for name in ("one", "two"):
        decide(None, a_create(name), decider=decider)
        decider.unnamed_types.learn([name])

    refused(UnknownJobType, None, a_create("three"), decider=decider)
    decide(None, a_create("one"), decider=decider)
    decide(None, a_create("clean_transcript"), decider=decider)


def test_named_types_do_not_count_among_the_unnamed() -> None:
    decider = a_decider(unnamed_types_max=1)
    decider.unnamed_types.learn(["clean_transcript", "default", "one"])

    decide(None, a_create("one"), decider=decider)
    refused(UnknownJobType, None, a_create("two"), decider=decider)


def test_a_strict_server_refuses_new_jobs_also_of_types_that_have_jobs_already() -> None:
    decider = a_decider(strict=True)
    decider.unnamed_types.learn(["unheard_of"])

    refused(UnknownJobType, None, a_create("unheard_of"), decider=decider)


def test_a_type_counts_only_once_its_job_is_remembered() -> None:
    decider = a_decider(unnamed_types_max=1)
    refused(InvalidField, None, a_create("one", metadata=TOO_LARGE), decider=decider)
    decide(None, a_create("two"), decider=decider)

    decide(None, a_create("three"), decider=decider)


def test_a_type_counts_within_its_transaction_and_afterwards_only_if_that_is_committed() -> None:
    decider = a_decider(unnamed_types_max=1)
    types = decider.unnamed_types
    types.begin()
    types.add("one")
    refused(UnknownJobType, None, a_create("two"), decider=decider)

    types.begin()
    assert types.unknown(["one", "default"]) == {"one"}
    types.add("two")
    types.commit()
    assert types.is_full
    assert types.unknown(["one", "two"]) == {"one"}
    types.begin()
    refused(UnknownJobType, None, a_create("one"), decider=decider)


def test_the_types_of_a_batch_count_together() -> None:
    decider = a_decider(unnamed_types_max=2)
    decider.unnamed_types.learn(["one"])

    decider.unnamed_types.check(["one", "two", "two", "clean_transcript"])
    with pytest.raises(UnknownJobType) as refusal:
        decider.unnamed_types.check(["two", "three"])
    assert refusal.value.job_type == "three"
