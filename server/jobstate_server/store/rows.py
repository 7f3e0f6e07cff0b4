"""Converts between table rows and domain values. Every backend uses the columns in the order given here."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from jobstate_server.domain.commands import Request
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import (
    INT64_MAX,
    JOB_FIELDS,
    REPORTED,
    Attempt,
    AttemptOutcome,
    FinishedJob,
    Job,
    JobError,
    JobState,
)
from jobstate_server.domain.reads import Finished
from jobstate_server.domain.statistics import TallyKey
from jobstate_server.store.models import AttemptRow, EventRow, JobRow, RequestRow
from jobstate_server.store.records import JobSummary, StoredRequest

ERROR_COLUMNS = ("error_code", "error_message", "error_retryable", "error_details", "error_attempt", "error_time")

_PLAIN_JOB_FIELDS = tuple(name for name in JOB_FIELDS if name != "last_error")
_PLAIN_COUNT = len(_PLAIN_JOB_FIELDS)
_STATE_INDEX = _PLAIN_JOB_FIELDS.index("state")
_CLAIMED_INDEX = _PLAIN_JOB_FIELDS.index("claimed")
_STATES = {int(state): state for state in JobState}

JOB_COLUMNS = _PLAIN_JOB_FIELDS + ERROR_COLUMNS
"""Columns of ``job`` in the order of ``job_values``."""

REPORT_COLUMNS = ("version", "progress", "progress_message", "update_time", "heard_time")
"""Columns that most progress reports change."""

_SELDOM_COLUMNS = ("metadata", "estimated_tokens", "estimated_cost_nano", "attempt_tokens", "attempt_cost_nano")

PROGRESS_COLUMNS = REPORT_COLUMNS + _SELDOM_COLUMNS
"""All columns that a progress report can change. None of them is indexed."""

_plain_values = itemgetter(*_PLAIN_JOB_FIELDS)
_report_values = itemgetter(*REPORT_COLUMNS, "id")
_progress_values = itemgetter(*PROGRESS_COLUMNS, "id")
_seldom = itemgetter(*_SELDOM_COLUMNS)

SUMMARY_COLUMNS = JobSummary._fields

FINISHED_COLUMNS = FinishedJob._fields

EVENT_COLUMNS = tuple(EventRow._meta.sorted_field_names)
ATTEMPT_COLUMNS = tuple(AttemptRow._meta.sorted_field_names)
REQUEST_COLUMNS = tuple(RequestRow._meta.sorted_field_names)

assert set(JOB_COLUMNS) == set(JobRow._meta.sorted_field_names), "the job table and the Job differ"
assert set(PROGRESS_COLUMNS) == REPORTED | {"version"}, "not every field that is reported would be written"


def error_values(error: JobError | None) -> tuple[Any, ...]:
    """The values of ``ERROR_COLUMNS``."""
    if error is None:
        return (None,) * len(ERROR_COLUMNS)
    return (error.code, error.message, error.retryable, error.details, error.attempt, error.time)


def error_from(values: tuple[Any, ...]) -> JobError | None:
    """The error in the values of ``ERROR_COLUMNS``; None when there was none."""
    code, message, retryable, details, attempt, time = values
    if code is None:
        return None
    return JobError(code, message, bool(retryable), bytes(details), attempt, time)


def job_values(job: Job) -> tuple[Any, ...]:
    """The row of a job, in the order of ``JOB_COLUMNS``."""
    return (*_plain_values(job.__dict__), *error_values(job.last_error))


def progress_values(job: Job) -> tuple[Any, ...]:
    """The values of ``PROGRESS_COLUMNS``, then the id."""
    values: tuple[Any, ...] = _progress_values(job.__dict__)
    return values


def report_values(job: Job) -> tuple[Any, ...]:
    """The values of ``REPORT_COLUMNS``, then the id."""
    values: tuple[Any, ...] = _report_values(job.__dict__)
    return values


def is_plain_report(before: Job, after: Job) -> bool:
    """Whether progress reports changed only ``REPORT_COLUMNS`` between these two versions of a job."""
    return bool(_seldom(before.__dict__) == _seldom(after.__dict__))


def job_from(row: tuple[Any, ...]) -> Job:
    """The job in a row of ``JOB_COLUMNS``."""
    values = dict(zip(_PLAIN_JOB_FIELDS, row, strict=False))
    values["state"] = _STATES[row[_STATE_INDEX]]
    values["claimed"] = bool(row[_CLAIMED_INDEX])
    values["last_error"] = error_from(row[_PLAIN_COUNT:])
    return Job.from_fields(values)


def summary_from(row: tuple[Any, ...]) -> JobSummary:
    """The summary in a row of ``SUMMARY_COLUMNS``. SQLite returns integers for booleans."""
    found = JobSummary._make(row)
    retryable = found.error_retryable
    return found._replace(claimed=bool(found.claimed), error_retryable=None if retryable is None else bool(retryable))


def finished_from(row: tuple[Any, ...]) -> FinishedJob:
    """The job in a row of ``FINISHED_COLUMNS``."""
    job_id, job_type, source_id, principal, state, complete_time = row
    return FinishedJob(job_id, job_type, source_id, principal, _STATES[state], complete_time)


def finished_values(selection: Finished) -> dict[str, Any]:
    """The parameters of a statement that selects finished jobs."""
    after = selection.after or Position(-1, "")
    values = {"before": selection.before, "after_time": after.create_time, "after_id": after.job_id}
    return {**values, "limit": selection.limit}


def attempt_values(attempt: Attempt) -> tuple[Any, ...]:
    """The row of an ended attempt, in the order of ``ATTEMPT_COLUMNS``."""
    return (
        attempt.job_id,
        attempt.number,
        attempt.start_time,
        attempt.end_time,
        int(attempt.outcome),
        attempt.worker,
        attempt.tokens,
        attempt.cost_nano,
        *error_values(attempt.error),
        attempt.claim_time,
    )


def usage_values(attempt: Attempt) -> tuple[Any, ...]:
    """The key and the usage of an ended attempt."""
    return (attempt.job_id, attempt.number, attempt.tokens, attempt.cost_nano)


def attempt_from(row: tuple[Any, ...]) -> Attempt:
    """The attempt in a row of ``ATTEMPT_COLUMNS``."""
    job_id, number, start_time, end_time, outcome, worker, tokens, cost_nano, *error, claim_time = row
    return Attempt(
        job_id=job_id,
        number=number,
        start_time=start_time,
        claim_time=claim_time,
        end_time=end_time,
        outcome=AttemptOutcome(outcome),
        worker=worker,
        tokens=tokens,
        cost_nano=cost_nano,
        error=error_from(tuple(error)),
    )


def request_values(stored: StoredRequest, first: int | None = None) -> tuple[Any, ...]:
    """The row of a used request id, in the order of ``REQUEST_COLUMNS``.

    Args:
        first: the sequence of the transaction's first event, if it is known.
    """
    request = stored.request
    return (
        request.principal,
        request.request_id,
        request.rpc,
        request.digest,
        stored.job_id,
        stored.time,
        stored.attempt,
        stored.create_sequence if first is None or stored.created_event is None else first + stored.created_event,
    )


def request_from(row: tuple[Any, ...]) -> StoredRequest:
    """The used request id in a row of ``REQUEST_COLUMNS``."""
    principal, request_id, rpc, digest, job_id, time, attempt, create_sequence = row
    return StoredRequest(Request(principal, request_id, rpc, bytes(digest)), job_id, time, attempt, create_sequence)


def tally_values(tallies: Mapping[TallyKey, int]) -> list[tuple[Any, ...]]:
    """The rows of tallies to add. Each is capped at the largest value of a column."""
    return [(*key, min(INT64_MAX, value)) for key, value in tallies.items()]
