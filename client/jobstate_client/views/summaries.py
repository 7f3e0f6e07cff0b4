"""Jobs and events in words for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jobstate_client.core.states import EventType, RetryDecision, State
from jobstate_client.core.values import Event, Job
from jobstate_client.views.phase import Phase, phase_of
from jobstate_client.views.text import clock, counted, span

PREFIX = "processing-job."

WAIT_TOLD_FROM = timedelta(seconds=1)
"""What an attempt waited for a worker is told from here on. A shorter wait is how quick workers are."""

_DECISIONS = {
    RetryDecision.NOT_RETRYABLE: "not retryable",
    RetryDecision.LIMIT_REACHED: "retries used up",
    RetryDecision.AWAITING_RETRY_CALL: "waits for a retry or cancel",
}


def kind(event: Event) -> str:
    """The name of an event without what all have in common."""
    return event.name.removeprefix(PREFIX)


def event_summary(event: Event) -> str:
    """What an event tells beyond its kind and job."""
    job, detail = event.job, event.detail
    told = ""
    match event.type:
        case EventType.QUEUED if job.source_id:
            told = f"source {job.source_id}"
        case EventType.STARTED:
            told = f"attempt {job.attempt}"
            told += ", waits for a worker" if detail.resumed else _by(job.worker, detail.waited)
        case EventType.CLAIMED:
            told = f"attempt {job.attempt}{_by(detail.worker, detail.waited)}"
        case EventType.PROGRESS:
            told = _joined(f"{job.progress} %", job.progress_message)
        case EventType.COMPLETED:
            told = _joined(f"attempt {job.attempt}", counted(job.result_count, "result") if job.result_count else "")
        case EventType.FAILED:
            told = _joined(_failure(job), _decision(event))
        case EventType.RETRYING:
            told = f"retry {job.retry_count} of {job.max_retries} in {span(detail.delay)}"
        case EventType.PERMANENTLY_FAILED:
            told = _decision(event)
        case EventType.CANCELLED:
            told = detail.reason
        case EventType.STALE_DETECTED:
            told = f"attempt {job.attempt}, last heard {clock(detail.heard_time)}"
        case EventType.USAGE:
            told = f"attempt {detail.attempt} used {detail.tokens:,} tokens, cost {detail.cost:g}"
    return told


def _decision(event: Event) -> str:
    decision = event.detail.decision
    return "" if decision is None else _DECISIONS.get(decision, "")


def job_note(job: Job, now: datetime | None = None) -> str:
    """What matters of a job in its present state."""
    match job.state:
        case State.PROCESSING if phase_of(job.state, claimed=job.claimed) is Phase.WAITING:
            return f"attempt {job.attempt} waits for a worker, {waiting(job, now)} so far"
        case State.PROCESSING:
            return job.progress_message
        case State.RETRYING if job.next_retry_time is not None:
            wait = job.next_retry_time - (now or datetime.now(UTC))
            due = f"in {span(wait)}" if wait.total_seconds() > 0 else "due"
            return _joined(f"retry {job.retry_count} of {job.max_retries} {due}", _failure(job))
        case State.FAILED | State.PERMANENTLY_FAILED:
            return _failure(job)
        case State.CANCELLED:
            return job.cancel_reason
        case State.COMPLETED:
            return counted(job.result_count, "result") if job.result_count else ""
    return ""


def waiting(job: Job, now: datetime | None = None) -> str:
    """How long the job has been waiting for a worker; empty when it is not. Never negative."""
    if job.waiting_since is None:
        return ""
    return span(max(timedelta(), (now or datetime.now(UTC)) - job.waiting_since))


def change_summary(job: Job) -> str:
    """What became of a job by a change: all after its id and state."""
    parts = [f"attempt {job.attempt}" if job.attempt else ""]
    phase = phase_of(job.state, claimed=job.claimed)
    if phase is Phase.RUNNING and job.progress:
        parts.append(f"{job.progress} %")
    # The number of the attempt has been told.
    is_resumed = phase is Phase.WAITING and job.attempt > 0
    parts.append("waits for a worker" if is_resumed else job_note(job))
    return _joined(*parts)


def _failure(job: Job) -> str:
    error = job.last_error
    if error is None:
        return ""
    return ": ".join(part for part in (error.code, error.message) if part)


def _by(worker: str, waited: timedelta | None) -> str:
    """Who took an attempt, and how long it had waited, where that is worth a word."""
    wait = f", waited {span(waited)}" if waited is not None and waited >= WAIT_TOLD_FROM else ""
    return (f" by {worker}" if worker else "") + wait


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
