"""Converts between table rows and domain values. Every backend uses the columns in the order given here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from jobstate_server.domain.bulk import BulkProgress
from jobstate_server.domain.commands import Request
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import (
    INT64_MAX,
    JOB_FIELDS,
    REPORTED,
    TERMS,
    Attempt,
    AttemptOutcome,
    Document,
    FinishedJob,
    Job,
    JobError,
    JobState,
)
from jobstate_server.domain.reads import Finished
from jobstate_server.domain.statistics import TallyKey
from jobstate_server.store.models import AttemptRow, EventRow, RequestRow, WholeJobRow
from jobstate_server.store.records import ChangedJob, JobSummary, MovedBulkRun, StoredRequest

DOCUMENTS = ("metadata", "result", "error_details")
"""A job's documents. Empty means none."""

_ERROR_COLUMNS = ("error_code", "error_message", "error_retryable", "error_attempt", "error_time")

POLICY_COLUMNS = ("tolerated_failures", "on_excess")
"""Fields of a job that is a group. They are columns of ``members``, so that no other job has room for them."""

POLICY = ", ".join(
    f"CASE WHEN job.group_depth > 0 THEN (SELECT members.{name} FROM members"  # noqa: S608
    f" WHERE members.group_key = job.create_sequence) END AS {name}"
    for name in POLICY_COLUMNS
)
"""Reads them with a job. NULL in one that is not a group."""

_PLAIN_JOB_FIELDS = tuple(name for name in JOB_FIELDS if name not in {"last_error", *DOCUMENTS, *POLICY_COLUMNS})
_PLAIN_COUNT = len(_PLAIN_JOB_FIELDS)
_STATE_INDEX = _PLAIN_JOB_FIELDS.index("state")
_CLAIMED_INDEX = _PLAIN_JOB_FIELDS.index("claimed")
_HELD_INDEX = _PLAIN_JOB_FIELDS.index("held")
_NEEDED_INDEX = _PLAIN_JOB_FIELDS.index("needed")
_STATES = {int(state): state for state in JobState}

JOB_COLUMNS = _PLAIN_JOB_FIELDS + _ERROR_COLUMNS
"""Columns of ``job`` in the order of ``job_values``. A row that is read has ``DOCUMENTS`` and ``POLICY_COLUMNS`` after
them."""

_JOB_WIDTH = len(JOB_COLUMNS)

_FIXED = TERMS | {"create_sequence", "principal", "unique_until"}
"""What no change of a job changes."""

CHANGING_FIELDS = tuple(name for name in _PLAIN_JOB_FIELDS if name not in _FIXED)
"""Columns that are fields of a job, and that a change of it can change."""

CHANGE_COLUMNS = CHANGING_FIELDS + _ERROR_COLUMNS
"""Columns that a change of a job can change. A statement that sets an indexed column moves the index's entry, so the
others must not be set again."""

_RELATED_COLUMNS = ("cancel_cause_id", "open_needs", "needed")

PLAIN_CHANGE_COLUMNS = tuple(name for name in CHANGE_COLUMNS if name not in _RELATED_COLUMNS)
"""Those of them that can change in a job without needs that no job needs."""

_UNSET_FIELDS = (
    "retry_delay",
    "start_time",
    "claim_time",
    "complete_time",
    "next_retry_time",
    "attempt_deadline",
    "due_time",
    "start_within",
    "lease",
    "unique_key",
    "cancel_cause_id",
    "group_id",
    "group_key",
    "awaited_group",
    "recreated_from",
    "labels",
)
"""Fields that are None in a job to which nothing has happened yet."""

NEW_CONSTANTS: Mapping[str, int | str] = {
    "state": int(JobState.QUEUED),
    "progress": 0,
    "progress_message": "",
    "result_count": 0,
    "attempt": 0,
    "claimed": 0,
    "worker": "",
    "retry_count": 0,
    "estimated_tokens": 0,
    "estimated_cost_nano": 0,
    "attempt_tokens": 0,
    "attempt_cost_nano": 0,
    "duration": 0,
    "cancel_reason": "",
    "held": 0,
    "unique_until": 0,
    "cancel_cause": 0,
    "needs_count": 0,
    "open_needs": 0,
    "needed": 0,
    "group_depth": 0,
}
"""Columns that have the same value in all jobs to which nothing has happened yet, and need not be bound."""

NEW_COLUMNS = tuple(name for name in _PLAIN_JOB_FIELDS if name not in {*_UNSET_FIELDS, *NEW_CONSTANTS})
"""The other columns of such a job that are not NULL."""

REPORT_COLUMNS = ("version", "progress", "progress_message", "update_time", "heard_time")
"""Columns that most progress reports change."""

_SELDOM_COLUMNS = ("estimated_tokens", "estimated_cost_nano", "attempt_tokens", "attempt_cost_nano")

PROGRESS_COLUMNS = REPORT_COLUMNS + _SELDOM_COLUMNS
"""All columns that a progress report can change, besides the document ``metadata``. None of them is indexed."""

_plain_values = itemgetter(*_PLAIN_JOB_FIELDS)
_new_values = itemgetter(*NEW_COLUMNS)
_untouched = itemgetter(*_UNSET_FIELDS, *NEW_CONSTANTS, "last_error")
_UNTOUCHED = (*(None,) * len(_UNSET_FIELDS), *NEW_CONSTANTS.values(), None)
_changing_values = itemgetter(*CHANGING_FIELDS)
_plain_change_values = itemgetter(*[name for name in PLAIN_CHANGE_COLUMNS if name not in _ERROR_COLUMNS])
_related = itemgetter(*_RELATED_COLUMNS)
_report_values = itemgetter(*REPORT_COLUMNS, "create_sequence")
_progress_values = itemgetter(*PROGRESS_COLUMNS, "create_sequence")
_seldom = itemgetter(*_SELDOM_COLUMNS)

SUMMARY_COLUMNS = tuple(name for name in JobSummary._fields if name != "is_kept")
"""Columns of ``job``; a row of a final job has ``is_kept`` after them."""

FINISHED_COLUMNS = tuple(name for name in FinishedJob._fields if name != "is_kept")
"""Columns of ``job``; a row has ``is_kept`` after them."""

EVENT_COLUMNS = tuple(EventRow._meta.sorted_field_names)
ATTEMPT_COLUMNS = tuple(name for name in AttemptRow._meta.sorted_field_names if name != "create_sequence")
"""Columns of ``attempt`` besides its job."""
REQUEST_COLUMNS = tuple(RequestRow._meta.sorted_field_names)

assert {*JOB_COLUMNS, *DOCUMENTS} == set(WholeJobRow._meta.sorted_field_names), "the job table and the Job differ"
assert {*PROGRESS_COLUMNS, "metadata"} == REPORTED | {"version"}, "not every field that is reported would be written"

_NO_ERROR = (None,) * len(_ERROR_COLUMNS)


def _error_values(error: JobError | None) -> tuple[Any, ...]:
    """The values of ``_ERROR_COLUMNS``."""
    return _NO_ERROR if error is None else (error.code, error.message, error.retryable, error.attempt, error.time)


def _error_from(values: Sequence[Any], details: Document | None) -> JobError | None:
    """The error in the values of ``_ERROR_COLUMNS``; None when there was none."""
    code, message, retryable, attempt, time = values
    return None if code is None else JobError(code, message, bool(retryable), bytes(details or b""), attempt, time)


def job_values(job: Job) -> tuple[Any, ...]:
    """The row of a job, in the order of ``JOB_COLUMNS``."""
    return (*_plain_values(job.__dict__), *_error_values(job.last_error))


def new_values(job: Job) -> tuple[Any, ...]:
    """The values of ``NEW_COLUMNS``."""
    values: tuple[Any, ...] = _new_values(job.__dict__)
    return values


def is_new(job: Job) -> bool:
    """Whether the columns of a job besides ``NEW_COLUMNS`` are those of ``NEW_CONSTANTS``, or NULL."""
    return bool(_untouched(job.__dict__) == _UNTOUCHED)


def change_values(job: Job) -> tuple[Any, ...]:
    """The values of ``CHANGE_COLUMNS``, then the key."""
    return (*_changing_values(job.__dict__), *_error_values(job.last_error), job.create_sequence)


def plain_change_values(job: Job) -> tuple[Any, ...]:
    """The values of ``PLAIN_CHANGE_COLUMNS``, then the key."""
    return (*_plain_change_values(job.__dict__), *_error_values(job.last_error), job.create_sequence)


def is_plain_change(before: Job, after: Job) -> bool:
    """Whether, of ``CHANGE_COLUMNS``, only ``PLAIN_CHANGE_COLUMNS`` differ between these two versions of a job."""
    return bool(_related(before.__dict__) == _related(after.__dict__))


def progress_values(job: Job) -> tuple[Any, ...]:
    """The values of ``PROGRESS_COLUMNS``, then the key."""
    values: tuple[Any, ...] = _progress_values(job.__dict__)
    return values


def report_values(job: Job) -> tuple[Any, ...]:
    """The values of ``REPORT_COLUMNS``, then the key."""
    values: tuple[Any, ...] = _report_values(job.__dict__)
    return values


def is_plain_report(before: Job, after: Job) -> bool:
    """Whether, of ``PROGRESS_COLUMNS``, only ``REPORT_COLUMNS`` differ between these two versions of a job."""
    return bool(_seldom(before.__dict__) == _seldom(after.__dict__))


def documents_of(job: Job) -> tuple[Document, ...]:
    """A job's documents, in the order of ``DOCUMENTS``."""
    return (job.metadata, job.result, b"" if job.last_error is None else job.last_error.details)


def changed_documents(changed: ChangedJob) -> tuple[Document | None, ...]:
    """The documents to write, in the order of ``DOCUMENTS``; None for one that is stored as it is."""
    job, before = changed.job, changed.before
    documents = documents_of(job)
    if before is None:
        return documents
    stored = documents_of(before)
    return tuple(None if new == old else new for new, old in zip(documents, stored, strict=True))


def job_from(row: tuple[Any, ...]) -> Job:
    """The job in a row of ``JOB_COLUMNS``, ``DOCUMENTS`` and ``POLICY_COLUMNS``."""
    values = dict(zip(_PLAIN_JOB_FIELDS, row, strict=False))
    values["state"] = _STATES[row[_STATE_INDEX]]
    values["claimed"] = bool(row[_CLAIMED_INDEX])
    values["held"] = bool(row[_HELD_INDEX])
    values["needed"] = bool(row[_NEEDED_INDEX])
    metadata, result, details, tolerated_failures, on_excess = row[_JOB_WIDTH:]
    values["tolerated_failures"] = tolerated_failures or 0
    values["on_excess"] = on_excess or 0
    values["metadata"] = bytes(metadata or b"")
    values["result"] = bytes(result or b"")
    values["last_error"] = _error_from(row[_PLAIN_COUNT:_JOB_WIDTH], details)
    return Job.from_fields(values)


def summary_from(row: tuple[Any, ...]) -> JobSummary:
    """The summary in a row of ``SUMMARY_COLUMNS``. SQLite returns integers for booleans."""
    found = JobSummary(*row)
    retryable = found.error_retryable
    return found._replace(
        claimed=bool(found.claimed),
        error_retryable=None if retryable is None else bool(retryable),
        is_kept=bool(found.is_kept),
    )


def finished_from(row: tuple[Any, ...]) -> FinishedJob:
    """The job in a row of ``FINISHED_COLUMNS``."""
    found = FinishedJob(*row)
    return found._replace(state=_STATES[found.state], is_kept=bool(found.is_kept))


def finished_values(selection: Finished) -> dict[str, Any]:
    """The parameters of a statement that selects finished jobs."""
    after = selection.after or Position(-1, 0)
    values = {"before": selection.before, "after_time": after.time, "after_key": after.create_sequence}
    return {**values, "limit": selection.limit}


def attempt_values(attempt: Attempt) -> tuple[Any, ...]:
    """The id of the job, then the values of ``ATTEMPT_COLUMNS``."""
    error = attempt.error
    return (
        attempt.job_id,
        attempt.number,
        attempt.start_time,
        attempt.end_time,
        int(attempt.outcome),
        attempt.worker,
        attempt.tokens,
        attempt.cost_nano,
        *_error_values(error),
        None if error is None else error.details,
        attempt.claim_time,
    )


def usage_values(attempt: Attempt) -> tuple[Any, ...]:
    """The id of the job, the number and the usage of an ended attempt."""
    return (attempt.job_id, attempt.number, attempt.tokens, attempt.cost_nano)


def attempt_from(row: tuple[Any, ...]) -> Attempt:
    """The attempt in a row of the id of its job and ``ATTEMPT_COLUMNS``."""
    job_id, number, start_time, end_time, outcome, worker, tokens, cost_nano, *error, details, claim_time = row
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
        error=_error_from(error, details),
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
        " ".join(stored.job_ids),
        stored.time,
        stored.attempt,
        stored.create_sequence if first is None or stored.created_event is None else first + stored.created_event,
        None if stored.acquired is None else " ".join(str(attempt) for _, attempt in stored.acquired),
        stored.is_existing,
        None if stored.bulk is None else bulk_text(stored.bulk),
    )


def bulk_text(progress: BulkProgress) -> str:
    """How far a bulk run has come, as it is stored."""
    skipped = [[int(reason), count] for reason, count in sorted(progress.skipped.items())]
    after = None if progress.after is None else [progress.after.time, progress.after.create_sequence]
    values = [progress.through, after, progress.matched, progress.done, skipped, progress.is_over]
    return json.dumps(values, separators=(",", ":"))


def _bulk_from(text: str) -> BulkProgress:
    through, after, matched, done, skipped, is_over = json.loads(text)
    position = None if after is None else Position(*after)
    return BulkProgress(through, position, matched, done, dict(skipped), is_over)


def moved_bulk_values(moved: MovedBulkRun) -> tuple[Any, ...]:
    """The key of a bulk run, what is stored of it, and what is stored from now on."""
    request = moved.request
    return (request.principal, request.request_id, bulk_text(moved.before), bulk_text(moved.after), moved.time)


def request_from(row: tuple[Any, ...]) -> StoredRequest:
    """The used request id in a row of ``REQUEST_COLUMNS``."""
    principal, request_id, rpc, digest, job_ids, time, attempt, create_sequence, attempts, existing, bulk = row
    request = Request(principal, request_id, rpc, bytes(digest))
    stored = StoredRequest(request, job_ids, time, attempt, create_sequence, is_existing=bool(existing))
    if bulk is not None:
        return stored._replace(bulk=_bulk_from(bulk))
    if attempts is None:
        return stored
    acquired = zip(job_ids.split(), map(int, attempts.split()), strict=True)
    return stored._replace(job_id="", acquired=tuple(acquired))


def tally_values(tallies: Mapping[TallyKey, int]) -> list[tuple[Any, ...]]:
    """The rows of tallies to add. Each is capped at the largest value of a column."""
    return [(*key, min(INT64_MAX, value)) for key, value in tallies.items()]
