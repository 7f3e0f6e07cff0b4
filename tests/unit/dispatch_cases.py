"""What release, expiry, the end of a delay and leases set, clear or leave, as cases."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.events import (
    Cancelled,
    EventType,
    Released,
    RetryDecision,
    StaleDetected,
)
from jobstate_server.domain.job import AttemptOutcome, JobError, JobState
from jobstate_server.domain.rules.maintenance import STALE
from jobstate_server.domain.waiting import CancelCause

from .rule_cases import (
    BACK,
    CANCELLED,
    CLAIMING,
    ENDED,
    NAMES,
    OVERDUE,
    PROCESSING,
    RESUMED,
    RESUMING,
    RETRYING,
    USAGE,
    Case,
    Told,
    failed,
    retrying,
    waiting,
)
from .support import MOVED, NOW, a_delayed_job, a_job, a_leased_job, an_unclaimed_job

LEASE_OVER = JobError(STALE, "the attempt has not reported for 11 s", True, b"", 2, NOW)
READY: Told = (EventType.READY, JobState.QUEUED, JobState.QUEUED, None)


def released(reason: str, delay: int) -> Told:
    return EventType.RELEASED, PROCESSING, RETRYING, Released(2, reason, delay, NOW + delay)


DISPATCH = [
    Case(
        "release",
        "release resume",
        a_leased_job(),
        c.Release(**NAMES, attempt=2, reason="stopping", usage=USAGE),
        BACK
        | {"duration": 20 * SECOND, "attempt_deadline": None, "due_time": None, "lease": None}
        | {"estimated_tokens": 1_050, "estimated_cost_nano": 2_050},
        [released("stopping", 0), RESUMING],
        AttemptOutcome.RELEASED,
    ),
    Case(
        "release for a while",
        "release",
        a_leased_job(),
        c.Release(**NAMES, attempt=2, delay=9 * SECOND),
        ENDED | {"state": RETRYING, "next_retry_time": NOW + 9 * SECOND, "due_time": NOW + 9 * SECOND},
        [released("", 9 * SECOND)],
        AttemptOutcome.RELEASED,
    ),
    Case(
        "release that claims the attempt",
        "claim release resume",
        an_unclaimed_job(),
        c.Release(**NAMES, attempt=2),
        {name: value for name, value in RESUMED.items() if name not in ("claimed", "claim_time", "worker", "state")},
        [CLAIMING, released("", 0), RESUMING],
        AttemptOutcome.RELEASED,
    ),
    Case(
        "release of what was not delivered",
        "release resume",
        a_leased_job(),
        c.ReturnUndelivered(**NAMES, attempt=2),
        BACK | {"duration": 20 * SECOND, "attempt_deadline": None, "due_time": None, "lease": None},
        [released("not delivered", 0), RESUMING],
        AttemptOutcome.RELEASED,
    ),
    Case(
        "end of a delay",
        "ready",
        a_delayed_job(),
        c.MakeReady(**NAMES, attempt=0, due_time=NOW - SECOND),
        {"held": False, "due_time": NOW + 49 * SECOND},
        [READY],
    ),
    Case(
        "end of a delay by Retry",
        "expedite",
        a_delayed_job(ready_time=NOW + SECOND, due_time=NOW + SECOND),
        c.Retry(**NAMES, immediately=True),
        {"held": False, "ready_time": NOW, "due_time": NOW + 50 * SECOND},
        [READY],
    ),
    Case(
        "expire",
        "cancel",
        a_job(JobState.QUEUED),
        c.Expire(**NAMES, attempt=0, due_time=NOW - 40 * SECOND),
        {
            "state": JobState.CANCELLED,
            "cancel_cause": CancelCause.EXPIRED,
            "complete_time": NOW,
            "due_time": None,
        },
        [(EventType.CANCELLED, JobState.QUEUED, JobState.CANCELLED, Cancelled("", CancelCause.EXPIRED))],
    ),
    Case(
        "cancel a job that is delayed",
        "cancel",
        a_delayed_job(),
        c.Cancel(**NAMES, reason="changed my mind"),
        CANCELLED | {"held": False, "due_time": None},
        [(EventType.CANCELLED, JobState.QUEUED, JobState.CANCELLED, Cancelled("changed my mind", CancelCause.CALLER))],
    ),
    Case(
        "end of a lease",
        "fail retry",
        a_leased_job(),
        c.TimeOut(**NAMES, attempt=2, due_time=MOVED),
        ENDED | {"last_error": LEASE_OVER} | waiting(2 * SECOND),
        [
            (EventType.STALE_DETECTED, PROCESSING, PROCESSING, StaleDetected(NOW - 11 * SECOND, 10 * SECOND)),
            failed(LEASE_OVER, RetryDecision.WILL_RETRY, 2 * SECOND),
            retrying(2 * SECOND),
        ],
        AttemptOutcome.FAILED,
    ),
    Case(
        "end of the timeout within a lease",
        "fail retry",
        a_leased_job(attempt_deadline=NOW),
        c.TimeOut(**NAMES, attempt=2, due_time=MOVED),
        ENDED | {"last_error": OVERDUE} | waiting(2 * SECOND),
        [failed(OVERDUE, RetryDecision.WILL_RETRY, 2 * SECOND), retrying(2 * SECOND)],
        AttemptOutcome.FAILED,
    ),
]
