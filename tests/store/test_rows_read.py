"""What was written is what is read: every field of every row, at its extremes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest

from jobstate_server.domain.commands import Request
from jobstate_server.domain.job import INT64_MAX, Attempt, AttemptOutcome, Job, JobError, JobState
from jobstate_server.domain.labels import to_text
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import ChangedJob, Changes, StoredRequest

from ..support.reads import reads
from .support import (
    a_job,
    an_attempt,
    an_error,
    an_event,
    as_stored,
    attempts_of,
    keep,
    stored_events,
    stored_job,
    summary_of,
    unversioned,
)

INT16_MAX = 2**15 - 1
INT32_MAX = 2**31 - 1

WIDE_TEXT = "𝔘🎈ß\n\"';--%\\" * 8
LARGE_DOCUMENT = bytes(range(256)) * 256

SMALL_NUMBERS = {
    "progress",
    "attempt",
    "retry_count",
    "max_retries",
    "number",
    "level",
    "unique_until",
    "cancel_cause",
}
"""Counts that the service bounds far below: stores may keep these in 32 bits."""

VERY_SMALL_NUMBERS = {"needs_count", "open_needs", "group_depth"}
"""And these in 16 bits."""

PROGRESS_FIELDS = {
    "progress",
    "progress_message",
    "metadata",
    "estimated_tokens",
    "estimated_cost_nano",
    "attempt_tokens",
    "attempt_cost_nano",
    "update_time",
    "heard_time",
}
"""What ``Changes.progressed`` may change besides the version."""

LARGE_ERROR = JobError(WIDE_TEXT, WIDE_TEXT, True, LARGE_DOCUMENT, INT32_MAX, INT64_MAX)
EMPTY_ERROR = JobError("", "", False, b"", 0, 0)


def extreme(name: str, hint: object) -> Any:
    """The greatest value that a field of this type may have."""
    values: dict[object, Any] = {
        str: WIDE_TEXT,
        str | None: WIDE_TEXT,
        bytes: LARGE_DOCUMENT,
        bool: True,
        int: INT32_MAX if name in SMALL_NUMBERS else INT64_MAX,
        int | None: INT64_MAX,
        JobState: JobState.CANCELLED,
        JobError | None: LARGE_ERROR,
    }
    if name == "labels":
        return to_text({f"{number}{'-' * 63}": "\U0001d518" * 16 for number in range(8)})
    return INT16_MAX if name in VERY_SMALL_NUMBERS else values[hint]


JOB_HINTS = get_type_hints(Job)
PLAIN = Job(id="job", job_type="")
OF_GROUPS = {"tolerated_failures", "on_excess"}
"""Stored with the counts of a group, not with its job: tested in ``test_relations``."""

EXTREME = replace(
    PLAIN, **{name: extreme(name, hint) for name, hint in JOB_HINTS.items() if name not in {"id", *OF_GROUPS}}
)

FIXED_FIELDS = {
    "id",
    "create_sequence",
    "create_time",
    "job_type",
    "source_id",
    "principal",
    "max_retries",
    "timeout",
    "level",
    "lane",
    "start_within",
    "unique_key",
    "unique_until",
    "needs_count",
    "group_id",
    "group_key",
    "awaited_group",
    "group_depth",
    "recreated_from",
    "labels",
}
"""What is written when a job is inserted, and never again."""


def with_fixed_of(job: Job, after: Job) -> Job:
    """``after`` with the fields of ``job`` that no change can have changed."""
    return replace(after, **{name: getattr(job, name) for name in FIXED_FIELDS})


def test_the_extreme_job_differs_from_the_plain_one_in_every_field() -> None:
    same = {field.name for field in fields(Job) if getattr(EXTREME, field.name) == getattr(PLAIN, field.name)}

    assert same == {"id", *OF_GROUPS}


@pytest.mark.parametrize("job", [PLAIN, EXTREME], ids=["plain", "extreme"])
def test_an_inserted_job_is_read_back_whole(store: Store, job: Job) -> None:
    keep(store, Changes(inserted=unversioned([job])))

    found = stored_job(store)

    assert found == job
    assert found is not None
    assert {name: type(value) for name, value in vars(found).items()} == {
        name: type(value) for name, value in vars(job).items()
    }


@pytest.mark.parametrize("job", [PLAIN, EXTREME], ids=["plain", "extreme"])
def test_the_summary_of_a_job_has_what_was_written(store: Store, reader: Reader, job: Job) -> None:
    keep(store, Changes(inserted=unversioned([replace(job, complete_time=5)])))

    (found,) = reader.jobs_in_state(job.job_type, job.state, None, 2)
    (ended,) = reader.finished_jobs(6, None, 2)

    assert found == ended == summary_of(replace(job, complete_time=5))
    assert [type(value) for value in found] == [type(value) for value in summary_of(replace(job, complete_time=5))]


@pytest.mark.parametrize(("before", "after"), [(PLAIN, EXTREME), (EXTREME, PLAIN)], ids=["set", "cleared"])
def test_an_updated_job_is_read_back_whole(store: Store, before: Job, after: Job) -> None:
    keep(store, Changes(inserted=unversioned([before])))

    keep(store, Changes(updated=unversioned([with_fixed_of(before, after)])))

    assert stored_job(store) == with_fixed_of(before, after)


@pytest.mark.parametrize(("before", "after"), [(PLAIN, EXTREME), (EXTREME, PLAIN)], ids=["set", "cleared"])
def test_only_what_has_changed_is_written_of_a_job_whose_stored_state_is_given(
    store: Store, before: Job, after: Job
) -> None:
    after = with_fixed_of(before, after)
    keep(store, Changes(inserted=unversioned([before])))

    keep(store, Changes(updated=[ChangedJob(after, None, None, before)]))
    assert stored_job(store) == after

    reported = replace(after, **{name: getattr(before, name) for name in PROGRESS_FIELDS})
    keep(store, Changes(progressed=[ChangedJob(reported, None, None, after)]))
    assert stored_job(store) == reported


@pytest.mark.parametrize("name", ["metadata", "result", "last_error"])
@pytest.mark.parametrize("kept", ["metadata", "result", "last_error"])
def test_a_document_is_set_replaced_and_emptied_without_the_others(store: Store, name: str, kept: str) -> None:
    values: dict[str, list[Any]] = {
        "metadata": [b"", b"one", LARGE_DOCUMENT, b"two", b""],
        "result": [b"", b"one", LARGE_DOCUMENT, b"two", b""],
        "last_error": [None, an_error(), LARGE_ERROR, EMPTY_ERROR, None],
    }
    job = a_job(**{kept: values[kept][1]})
    keep(store, Changes(inserted=unversioned([job])))

    for value in values[name]:
        before, job = job, replace(job, **{name: value})
        keep(store, Changes(updated=[ChangedJob(job, None, None, before)]))
        assert stored_job(store) == job


@pytest.mark.parametrize(("before", "after"), [(PLAIN, EXTREME), (EXTREME, PLAIN)], ids=["set", "cleared"])
def test_a_progressed_job_is_read_back_with_all_that_progress_changes(store: Store, before: Job, after: Job) -> None:
    keep(store, Changes(inserted=unversioned([before])))
    progressed = replace(before, **{name: getattr(after, name) for name in PROGRESS_FIELDS}, version=7)

    keep(store, Changes(progressed=unversioned([progressed])))

    assert stored_job(store) == progressed


@pytest.mark.parametrize("before", [None, PLAIN], ids=["unknown before", "known before"])
@pytest.mark.parametrize("name", sorted(set(JOB_HINTS) - FIXED_FIELDS))
def test_one_field_is_changed_alone(store: Store, name: str, before: Job | None) -> None:
    changed = replace(PLAIN, **{name: getattr(EXTREME, name)})
    keep(store, Changes(inserted=unversioned([PLAIN, replace(EXTREME, id="other")])))

    keep(store, Changes(updated=[ChangedJob(changed, None, None, before)]))

    assert stored_job(store) == changed
    assert stored_job(store, "other") == replace(EXTREME, id="other")


@pytest.mark.parametrize("name", sorted(set(JOB_HINTS) - {"id", "create_sequence"}))
def test_one_field_is_inserted_alone(store: Store, name: str) -> None:
    job = replace(PLAIN, **{name: getattr(EXTREME, name)})

    keep(store, Changes(inserted=unversioned([replace(PLAIN, id="other", create_sequence=1), job])))

    assert stored_job(store) == job


@pytest.mark.parametrize("state", JobState)
def test_every_state_is_read_back(store: Store, state: JobState) -> None:
    keep(store, Changes(inserted=unversioned([a_job(state=state)])))

    found = stored_job(store)

    assert found is not None
    assert found.state is state


def test_an_error_without_text_is_still_an_error(store: Store) -> None:
    keep(store, Changes(inserted=unversioned([a_job(last_error=EMPTY_ERROR)])))

    assert stored_job(store) == a_job(last_error=EMPTY_ERROR)


def test_a_loaded_job_equals_the_job_read(store: Store) -> None:
    keep(store, Changes(inserted=unversioned([replace(EXTREME, id=WIDE_TEXT)])))

    with store.transaction() as transaction:
        loaded = transaction.load(reads([WIDE_TEXT]))

    assert loaded.jobs == {WIDE_TEXT: replace(EXTREME, id=WIDE_TEXT)}


EXTREME_ATTEMPT = Attempt(
    job_id="job",
    number=INT32_MAX,
    start_time=INT64_MAX,
    claim_time=INT64_MAX,
    end_time=INT64_MAX,
    outcome=AttemptOutcome.FAILED,
    worker=WIDE_TEXT,
    tokens=INT64_MAX,
    cost_nano=INT64_MAX,
    error=LARGE_ERROR,
)


@pytest.mark.parametrize("error", [None, EMPTY_ERROR, an_error(), LARGE_ERROR], ids=["none", "empty", "plain", "large"])
@pytest.mark.parametrize("outcome", AttemptOutcome)
def test_an_attempt_is_read_back_whole(
    store: Store, reader: Reader, outcome: AttemptOutcome, error: JobError | None
) -> None:
    attempt = an_attempt(outcome=outcome, error=error)

    keep(store, Changes(inserted=unversioned([a_job()]), attempts=[attempt, EXTREME_ATTEMPT]))

    assert attempts_of(reader, "job") == [attempt, EXTREME_ATTEMPT]


def test_an_event_is_read_back_whole(store: Store) -> None:
    events = [
        an_event(
            WIDE_TEXT,
            time=INT64_MAX,
            job_type=WIDE_TEXT,
            source_id=WIDE_TEXT,
            principal=WIDE_TEXT,
            type=INT32_MAX,
            payload=LARGE_DOCUMENT,
        ),
        an_event("", time=0, job_type="", source_id="", principal="", type=0, payload=b""),
    ]

    first = keep(store, Changes(events=events))

    assert stored_events(store) == as_stored(first, events)


def test_a_request_is_read_back_whole(store: Store) -> None:
    stored = StoredRequest(Request(WIDE_TEXT, WIDE_TEXT, WIDE_TEXT, LARGE_DOCUMENT), WIDE_TEXT, INT64_MAX)

    keep(store, Changes(requests=[stored]))

    with store.transaction() as transaction:
        assert transaction.load(reads(request_keys=[stored.request.key])).requests == {stored.request.key: stored}


def test_a_version_is_written_beside_the_other_fields(store: Store) -> None:
    keep(store, Changes(inserted=[ChangedJob(EXTREME, 0)], events=[an_event()]))

    assert stored_job(store) == replace(EXTREME, version=1)
