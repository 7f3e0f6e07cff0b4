"""What a caller may see is judged once, in the batch, before anybody is told that a job exists."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import ANONYMOUS, SERVER, Caller
from jobstate_server.domain.errors import InvalidField, JobExists, JobNotFound
from jobstate_server.domain.filters import EventFilter, JobFilter
from jobstate_server.domain.groups import Group, GroupPolicy
from jobstate_server.domain.job import Job, JobError, JobState, Usage
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.domain.reads import Due
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.outcomes import DueOutcome, Outcome, Verdict
from jobstate_server.store.records import Loaded, StoredRequest
from jobstate_server.store.relation_records import StoredGroup

from .support import NOW, a_decider, a_job

NEAR = Caller("near", "near", Reach(("clean_*",), ("source",)))
"""Reaches the job of the tests."""

FAR = Caller("far", "far", Reach(("clean_*",), ("elsewhere",)))
"""Does not."""

FAMILIES: dict[type[c.JobCommand], dict[str, Any]] = {
    c.Start: {},
    c.UpdateProgress: {"attempt": 2},
    c.Complete: {"attempt": 2},
    c.Fail: {"attempt": 2},
    c.Release: {"attempt": 2},
    c.Retry: {},
    c.Cancel: {},
    c.Recreate: {"new_id": "new"},
    c.CloseGroup: {},
    c.ReportUsage: {"attempt": 2, "usage": Usage(tokens=1)},
}
"""Every command of a caller for a job that is there, and what it needs to be acceptable."""

PLAIN = {"metadata": b"", "last_error": JobError("BROKEN", "", True, b"", 1, NOW)}
"""What lets a job be encoded."""

STATES = {c.Start: JobState.QUEUED, c.Retry: JobState.FAILED, c.Recreate: JobState.COMPLETED}


def an_empty_group(keys: Collection[int]) -> dict[int, StoredGroup]:
    return {key: StoredGroup("job", None, Group(GroupPolicy())) for key in keys}


def verdict_on(command: c.Command, *jobs: Job, requests: tuple[StoredRequest, ...] = ()) -> Verdict:
    """What a batch makes of a command, where these jobs and request ids are stored."""
    loaded = Loaded({job.id: job for job in jobs}, {stored.request.key: stored for stored in requests})
    batch = Batch(a_decider(), NOW, loaded, requests_room=10, read_groups=an_empty_group)
    batch.decide(command)
    (verdict,) = batch.verdicts(1)
    return verdict


@pytest.mark.parametrize("family", FAMILIES)
def test_a_command_finds_a_job_within_reach_and_none_beyond(family: type[c.JobCommand]) -> None:
    group = {"group_depth": 1, "on_excess": 1, "create_sequence": 30} if family is c.CloseGroup else {}
    job = a_job(STATES.get(family, JobState.PROCESSING), **PLAIN, **group)

    def asked_by(caller: Caller) -> Verdict:
        return verdict_on(family(job_id="job", caller=caller, **FAMILIES[family]), job)

    beyond, missing = asked_by(FAR), verdict_on(family(job_id="job", **FAMILIES[family]))
    assert isinstance(asked_by(NEAR), Outcome)
    assert isinstance(asked_by(ANONYMOUS), Outcome)
    assert isinstance(beyond, JobNotFound)
    assert isinstance(missing, JobNotFound)
    assert (beyond.message, beyond.facts) == (missing.message, missing.facts)


def test_every_command_of_a_caller_is_covered() -> None:
    def kinds(base: type[c.JobCommand]) -> set[type[c.JobCommand]]:
        below = set(base.__subclasses__())
        return below.union(*map(kinds, below)) if below else set()

    made_up = {c.AttemptCommand, c.ServerCommand, c.Create}
    assert {
        kind
        for kind in kinds(c.JobCommand)
        if kind.__module__ == c.__name__ and kind not in made_up and not (issubclass(kind, c.ServerCommand))
    } == set(FAMILIES)


def test_an_id_that_is_taken_out_of_reach_is_taken() -> None:
    create = c.Create(job_id="job", job_type="clean_transcript", source_id="elsewhere", caller=FAR)

    assert isinstance(verdict_on(create, a_job(JobState.QUEUED)), JobExists)
    assert isinstance(verdict_on(c.BatchCreate(creates=(create,), caller=FAR), a_job(JobState.QUEUED)), JobExists)


@pytest.mark.parametrize(
    ("job_type", "source_id", "field"),
    [("render", "elsewhere", "job_type"), ("clean_transcript", "source", "source_id")],
)
def test_nobody_creates_a_job_out_of_their_own_reach(job_type: str, source_id: str, field: str) -> None:
    create = c.Create(job_id="new", job_type=job_type, source_id=source_id, caller=FAR)

    alone, in_batch = verdict_on(create), verdict_on(c.BatchCreate(creates=(create,), caller=FAR))

    assert isinstance(alone, InvalidField)
    assert alone.field == field
    assert isinstance(in_batch, InvalidField)
    assert in_batch.field == f"requests[0].{field}"


@pytest.mark.parametrize("is_batch", [False, True])
def test_a_repeat_is_not_answered_with_a_job_that_is_out_of_reach_by_now(is_batch: bool) -> None:
    request = c.Request("far", "request-1", "Create", b"")
    create = c.Create(job_id="job", job_type="clean_transcript", source_id="elsewhere", request=request, caller=FAR)
    command = c.BatchCreate(creates=(create,), caller=FAR) if is_batch else create

    verdict = verdict_on(command, a_job(JobState.QUEUED), requests=(StoredRequest(request, "job", NOW),))

    assert isinstance(verdict, JobNotFound)
    assert "deleted" not in verdict.facts


def test_the_server_serves_every_due_job() -> None:
    job = a_job(JobState.RETRYING, **PLAIN)
    batch = Batch(a_decider(), NOW, Loaded({"job": job}, {}, {Due(1): ["job"]}), requests_room=0)

    batch.decide(c.ServeDue(limit=1, caller=SERVER))

    (outcome,) = batch.verdicts(1)
    assert isinstance(outcome, DueOutcome)
    assert (outcome.served, outcome.failed) == (1, 0)
    assert batch.jobs["job"].state is JobState.PROCESSING


def test_an_event_passes_only_within_reach() -> None:
    wanted = EventFilter(reach=NEAR.reach)

    assert wanted.passes("job", "clean_transcript", "source", 1)
    assert not wanted.passes("job", "clean_transcript", "elsewhere", 1)
    assert not wanted.passes("job", "render", "source", 1)
    assert not wanted.passes_all
    assert EventFilter().passes_all


@pytest.mark.parametrize(
    ("reach", "asked", "job_types", "source_ids"),
    [
        (EVERYTHING, JobFilter(), (), ()),
        (Reach(("clean*",)), JobFilter(), ("clean", "clean_more"), ()),
        (Reach(("clean*",)), JobFilter(job_types=("clean", "render")), ("clean",), ()),
        (Reach(None, ("a", "b")), JobFilter(), (), ("a", "b")),
        (Reach(None, ("a*",)), JobFilter(source_ids=("a1", "b1")), (), ("a1",)),
        (Reach(None, ("a*",)), JobFilter(), (), ()),
    ],
)
def test_a_filter_names_the_types_and_sources_within_reach(
    reach: Reach, asked: JobFilter, job_types: tuple[str, ...], source_ids: tuple[str, ...]
) -> None:
    asked = JobFilter(job_types=asked.job_types, source_ids=asked.source_ids, reach=reach)

    narrowed = asked.within_reach(["render", "clean_more", "clean"])

    assert narrowed == JobFilter(job_types=job_types, source_ids=source_ids, reach=reach)


@pytest.mark.parametrize(
    "asked",
    [
        JobFilter(reach=Reach(())),
        JobFilter(reach=Reach(None, ())),
        JobFilter(reach=Reach(("unheard_of*",))),
        JobFilter(reach=Reach(("clean",)), job_types=("render",)),
        JobFilter(reach=Reach(None, ("a",)), source_ids=("b",)),
    ],
)
def test_a_filter_that_lies_out_of_reach_asks_for_no_job_and_not_for_all(asked: JobFilter) -> None:
    assert asked.within_reach(["clean", "render"]) is None


def test_a_pattern_is_a_name_or_a_prefix_and_nothing_else() -> None:
    reach = Reach(("a.c", "b*"), ("*",))

    assert reach.admits("a.c", "")
    assert reach.admits("b", "any")
    assert reach.admits("bc", "any")
    assert not reach.admits("abc", "")
    assert not reach.admits("a.cd", "")
    assert not reach.admits("B", "")
