"""What every trigger sets, clears or leaves, as cases: a command to a job and all that it changes and tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.events import (
    Cancelled,
    Claimed,
    Detail,
    EventType,
    Failed,
    PermanentlyFailed,
    RetryDecision,
    Retrying,
    StaleDetected,
    Started,
)
from jobstate_server.domain.job import AttemptOutcome, Job, JobError, JobState, Usage
from jobstate_server.domain.rules.due import ATTEMPT_TIMEOUT
from jobstate_server.domain.rules.maintenance import STALE
from jobstate_server.domain.waiting import CancelCause

from .support import MOVED, NOW, TIMEOUT, a_job, an_unclaimed_job

ERROR = JobError("E_NEW", "a new failure", True, b"details", 2, NOW)
FATAL = JobError("E_NEW", "a new failure", False, b"details", 2, NOW)
OVERDUE = JobError(ATTEMPT_TIMEOUT, "the attempt exceeded its timeout of 60 s", True, b"", 2, NOW)
SILENT = JobError(STALE, "the attempt has not reported for 10 s", True, b"", 2, NOW)

NAMES: dict[str, Any] = {"job_id": "job", "caller": Caller(actor="somebody")}
FAILURE: dict[str, Any] = NAMES | {"attempt": 2, "code": "E_NEW", "message": "a new failure", "details": b"details"}
USAGE = Usage(tokens=150, cost_nano=250)

USED = {
    "attempt_tokens": 150,
    "attempt_cost_nano": 250,
    "estimated_tokens": 1_050,
    "estimated_cost_nano": 2_050,
}
"""What ``USAGE`` changes: the difference to what the attempt had reported before."""

ENDED = {"attempt_deadline": None, "due_time": None, "duration": 20 * SECOND}
"""What the end of an attempt claimed 15 s ago changes."""

GIVEN = {
    "claimed": True,
    "claim_time": NOW,
    "worker": "new worker",
    "heard_time": NOW,
    "attempt_deadline": NOW + TIMEOUT,
    "due_time": NOW + TIMEOUT,
}
"""What giving the attempt to a worker changes."""

RESUMED = {
    "state": JobState.PROCESSING,
    "attempt": 3,
    "claimed": False,
    "claim_time": None,
    "worker": "",
    "progress": 0,
    "progress_message": "",
    "attempt_tokens": 0,
    "attempt_cost_nano": 0,
    "start_time": NOW,
    "heard_time": NOW,
}
"""What a new attempt changes that nobody has claimed."""

BACK = {name: value for name, value in RESUMED.items() if name != "state"}
"""What a new attempt changes when the worker gave the one before back: the job keeps its place."""

AGAIN = RESUMED | {"ready_time": NOW}
"""The same, when the job has a new place in the order of hand-outs."""

Told = tuple[EventType, JobState, JobState, Detail | None]
"""An event as the table has it: type, state before, state after, detail."""


@dataclass(frozen=True)
class Case:
    """One row: a command to a job, all that it changes, and all that it tells."""

    what: str
    triggers: str
    """The steps that it takes."""
    job: Job
    command: c.JobCommand
    changes: dict[str, Any]
    """Every field that changes, but for ``update_time``."""
    told: list[Told]
    outcome: AttemptOutcome | None = None
    """How the attempt ended, if it ended."""


PROCESSING, FAILED, RETRYING = JobState.PROCESSING, JobState.FAILED, JobState.RETRYING
GIVEN_UP = JobState.PERMANENTLY_FAILED


def failed(error: JobError, decision: RetryDecision, wait: int | None = None) -> Told:
    return EventType.FAILED, PROCESSING, FAILED, Failed(error, decision, None if wait is None else NOW + wait)


def retrying(wait: int) -> Told:
    return EventType.RETRYING, FAILED, RETRYING, Retrying(wait, NOW + wait)


def waiting(wait: int) -> dict[str, Any]:
    return {"state": RETRYING, "retry_count": 2, "next_retry_time": NOW + wait, "due_time": NOW + wait}


RESUMING: Told = (EventType.STARTED, RETRYING, PROCESSING, Started(resumed=True))

BEGINNING = [
    Case(
        "start",
        "start",
        a_job(JobState.QUEUED),
        c.Start(**NAMES, worker="new worker"),
        RESUMED | GIVEN | {"attempt": 1},
        [(EventType.STARTED, JobState.QUEUED, PROCESSING, Started(resumed=False, waited=90 * SECOND))],
    ),
    Case(
        "start without timeout",
        "start",
        a_job(JobState.QUEUED, timeout=None),
        c.Start(**NAMES, worker="new worker"),
        {name: value for name, value in (RESUMED | GIVEN).items() if name != "attempt_deadline"}
        | {"attempt": 1, "due_time": None},
        [(EventType.STARTED, JobState.QUEUED, PROCESSING, Started(resumed=False, waited=90 * SECOND))],
    ),
    Case(
        "claim",
        "claim",
        an_unclaimed_job(),
        c.Start(**NAMES, worker="new worker"),
        GIVEN,
        [(EventType.CLAIMED, PROCESSING, PROCESSING, Claimed("new worker", 20 * SECOND))],
    ),
]

BY_REPORT = {name: value for name, value in GIVEN.items() if name != "worker"}
"""What a report changes that claims the attempt, besides what it reports: it names no worker."""

CLAIMING: Told = (EventType.CLAIMED, PROCESSING, PROCESSING, Claimed("", 20 * SECOND))
UNCLAIMED_END = {"claimed": True, "claim_time": NOW, "heard_time": NOW}
"""What a report changes that claims the attempt and ends it at once: it took no time."""

PROGRESSING = [
    Case(
        "progress with everything",
        "progress",
        a_job(PROCESSING),
        c.UpdateProgress(**NAMES, attempt=2, progress=60, message="on", metadata=b"{more}", usage=USAGE),
        {"progress": 60, "progress_message": "on", "metadata": b"{metadata}{more}", "heard_time": NOW} | USED,
        [(EventType.PROGRESS, PROCESSING, PROCESSING, None)],
    ),
    Case(
        "progress with nothing but a cleared message",
        "progress",
        a_job(PROCESSING),
        c.UpdateProgress(**NAMES, attempt=2, message=""),
        {"progress_message": "", "heard_time": NOW},
        [(EventType.PROGRESS, PROCESSING, PROCESSING, None)],
    ),
    Case(
        "progress that claims the attempt",
        "claim progress",
        an_unclaimed_job(),
        c.UpdateProgress(**NAMES, attempt=2, progress=0, metadata=b"{more}", usage=USAGE),
        BY_REPORT | USED | {"progress": 0, "metadata": b"{metadata}{more}"},
        [CLAIMING, (EventType.PROGRESS, PROCESSING, PROCESSING, None)],
    ),
    Case(
        "a sign of life that claims the attempt",
        "claim progress",
        an_unclaimed_job(),
        c.UpdateProgress(**NAMES, attempt=2),
        BY_REPORT,
        [CLAIMING],
    ),
]

ENDING = [
    Case(
        "complete with everything",
        "complete",
        a_job(PROCESSING),
        c.Complete(**NAMES, attempt=2, result_count=12, result=b"{result}", usage=USAGE),
        ENDED
        | USED
        | {
            "state": JobState.COMPLETED,
            "progress": 100,
            "result_count": 12,
            "result": b"{result}",
            "complete_time": NOW,
        },
        [(EventType.COMPLETED, PROCESSING, JobState.COMPLETED, None)],
        AttemptOutcome.COMPLETED,
    ),
    Case(
        "complete with nothing",
        "complete",
        a_job(PROCESSING),
        c.Complete(**NAMES, attempt=2),
        ENDED | {"state": JobState.COMPLETED, "progress": 100, "complete_time": NOW},
        [(EventType.COMPLETED, PROCESSING, JobState.COMPLETED, None)],
        AttemptOutcome.COMPLETED,
    ),
    Case(
        "complete that claims the attempt",
        "claim complete",
        an_unclaimed_job(),
        c.Complete(**NAMES, attempt=2, usage=USAGE),
        UNCLAIMED_END | USED | {"state": JobState.COMPLETED, "progress": 100, "complete_time": NOW},
        [CLAIMING, (EventType.COMPLETED, PROCESSING, JobState.COMPLETED, None)],
        AttemptOutcome.COMPLETED,
    ),
    Case(
        "fail that claims the attempt",
        "claim fail retry",
        an_unclaimed_job(),
        c.Fail(**FAILURE),
        UNCLAIMED_END | {"last_error": ERROR} | waiting(2 * SECOND),
        [CLAIMING, failed(ERROR, RetryDecision.WILL_RETRY, 2 * SECOND), retrying(2 * SECOND)],
        AttemptOutcome.FAILED,
    ),
    Case(
        "fail and retry by itself",
        "fail retry",
        a_job(PROCESSING),
        c.Fail(**FAILURE, usage=USAGE),
        ENDED | USED | {"last_error": ERROR} | waiting(2 * SECOND),
        [failed(ERROR, RetryDecision.WILL_RETRY, 2 * SECOND), retrying(2 * SECOND)],
        AttemptOutcome.FAILED,
    ),
    Case(
        "fail and retry after the delay that came with the failure",
        "fail retry",
        a_job(PROCESSING),
        c.Fail(**FAILURE, retry_delay=90 * SECOND),
        ENDED | {"last_error": ERROR} | waiting(90 * SECOND),
        [failed(ERROR, RetryDecision.WILL_RETRY, 90 * SECOND), retrying(90 * SECOND)],
        AttemptOutcome.FAILED,
    ),
    Case(
        "fail and rest",
        "fail",
        a_job(PROCESSING, job_type="manual"),
        c.Fail(**FAILURE, retry_delay=9 * SECOND),
        ENDED | {"state": FAILED, "last_error": ERROR, "retry_delay": 9 * SECOND},
        [failed(ERROR, RetryDecision.AWAITING_RETRY_CALL)],
        AttemptOutcome.FAILED,
    ),
    Case(
        "fail for good because it is not retryable",
        "fail give_up",
        a_job(PROCESSING, job_type="manual"),
        c.Fail(**FAILURE, retryable=False),
        ENDED | {"state": GIVEN_UP, "last_error": FATAL, "complete_time": NOW},
        [
            failed(FATAL, RetryDecision.NOT_RETRYABLE),
            (EventType.PERMANENTLY_FAILED, FAILED, GIVEN_UP, PermanentlyFailed(RetryDecision.NOT_RETRYABLE)),
        ],
        AttemptOutcome.FAILED,
    ),
    Case(
        "fail for good because the retries are used up",
        "fail give_up",
        a_job(PROCESSING, retry_count=3),
        c.Fail(**FAILURE),
        ENDED | {"state": GIVEN_UP, "last_error": ERROR, "complete_time": NOW},
        [
            failed(ERROR, RetryDecision.LIMIT_REACHED),
            (EventType.PERMANENTLY_FAILED, FAILED, GIVEN_UP, PermanentlyFailed(RetryDecision.LIMIT_REACHED)),
        ],
        AttemptOutcome.FAILED,
    ),
    Case(
        "time out",
        "fail retry",
        a_job(PROCESSING),
        c.TimeOut(**NAMES, attempt=2, due_time=MOVED),
        ENDED | {"last_error": OVERDUE} | waiting(2 * SECOND),
        [failed(OVERDUE, RetryDecision.WILL_RETRY, 2 * SECOND), retrying(2 * SECOND)],
        AttemptOutcome.FAILED,
    ),
    Case(
        "go stale",
        "fail retry",
        a_job(PROCESSING),
        c.MarkStale(**NAMES, attempt=2, heard_time=NOW - 10 * SECOND),
        ENDED | {"last_error": SILENT} | waiting(2 * SECOND),
        [
            (EventType.STALE_DETECTED, PROCESSING, PROCESSING, StaleDetected(NOW - 10 * SECOND, 300 * SECOND)),
            failed(SILENT, RetryDecision.WILL_RETRY, 2 * SECOND),
            retrying(2 * SECOND),
        ],
        AttemptOutcome.FAILED,
    ),
]

RETRIES = [
    Case(
        "retry after the delay that came with the failure",
        "retry",
        a_job(FAILED),
        c.Retry(**NAMES),
        waiting(7 * SECOND) | {"retry_delay": None},
        [retrying(7 * SECOND)],
    ),
    Case(
        "retry after the backoff",
        "retry",
        a_job(FAILED, retry_delay=None),
        c.Retry(**NAMES),
        waiting(2 * SECOND),
        [retrying(2 * SECOND)],
    ),
    Case(
        "retry of a resting job by the server",
        "retry",
        a_job(FAILED),
        c.RetryResting(**NAMES, attempt=2),
        waiting(7 * SECOND) | {"retry_delay": None},
        [retrying(7 * SECOND)],
    ),
    Case(
        "retry immediately from FAILED",
        "retry expedite",
        a_job(FAILED),
        c.Retry(**NAMES, immediately=True),
        AGAIN | {"retry_count": 2, "retry_delay": None},
        [retrying(0), RESUMING],
    ),
    Case(
        "retry immediately from RETRYING",
        "expedite",
        a_job(RETRYING, next_retry_time=NOW + SECOND, due_time=NOW + SECOND),
        c.Retry(**NAMES, immediately=True),
        AGAIN | {"next_retry_time": None, "due_time": None},
        [RESUMING],
    ),
    Case(
        "retry immediately when the wait was over already",
        "expedite",
        a_job(RETRYING),
        c.Retry(**NAMES, immediately=True),
        AGAIN | {"start_time": NOW - SECOND, "ready_time": NOW - SECOND, "next_retry_time": None, "due_time": None},
        [RESUMING],
    ),
    Case(
        "resume",
        "resume",
        a_job(RETRYING),
        c.Resume(**NAMES, attempt=2, due_time=NOW - SECOND),
        AGAIN | {"start_time": NOW - SECOND, "ready_time": NOW - SECOND, "next_retry_time": None, "due_time": None},
        [RESUMING],
    ),
]


CANCELLED = {
    "state": JobState.CANCELLED,
    "cancel_reason": "changed my mind",
    "cancel_cause": CancelCause.CALLER,
    "complete_time": NOW,
}


def cancel(state: JobState, outcome: AttemptOutcome | None = None, **changes: Any) -> Case:
    return Case(
        f"cancel from {state.name}",
        "cancel",
        a_job(state),
        c.Cancel(**NAMES, reason="changed my mind"),
        changes | CANCELLED,
        [(EventType.CANCELLED, state, JobState.CANCELLED, Cancelled("changed my mind", CancelCause.CALLER))],
        outcome,
    )


CANCELLING = [
    cancel(JobState.QUEUED, due_time=None),
    cancel(PROCESSING, AttemptOutcome.CANCELLED, **ENDED),
    cancel(FAILED),
    cancel(RETRYING, next_retry_time=None, due_time=None),
    Case(
        "cancel before anybody claimed the attempt",
        "cancel",
        an_unclaimed_job(),
        c.Cancel(**NAMES, reason="changed my mind"),
        CANCELLED,
        [(EventType.CANCELLED, PROCESSING, JobState.CANCELLED, Cancelled("changed my mind", CancelCause.CALLER))],
        AttemptOutcome.CANCELLED,
    ),
]
