"""Jobs and events in words, for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jobstate_client.core.states import CancelCause, EventType, Priority, RetryDecision, State, WaitReason
from jobstate_client.core.values import Event, GroupMembers, Job
from jobstate_client.views.phase import Phase, phase_of
from jobstate_client.views.text import clock, counted, span

PREFIX = "processing-job."

WAIT_SHOWN_FROM = timedelta(seconds=1)
"""Shortest wait for a worker that is worth showing: every attempt waits for less than this."""

NOT_BEGUN_IN_TIME = "nobody began it in time"

_DECISIONS = {
    RetryDecision.NOT_RETRYABLE: "not retryable",
    RetryDecision.LIMIT_REACHED: "retries used up",
    RetryDecision.AWAITING_RETRY_CALL: "waits for a retry or cancel",
}


def event_name(event: Event) -> str:
    """The name of an event without the common prefix."""
    return event.name.removeprefix(PREFIX)


def event_summary(event: Event) -> str:
    """The details of an event, beside its name and job."""
    return "erased" if event.erased else _summary(event)


def _summary(event: Event) -> str:
    job, detail = event.job, event.detail
    text = ""
    match event.type:
        case EventType.QUEUED:
            source = f"source {job.source_id}" if job.source_id else ""
            text = _joined(source, _lane(job), _priority(job), _delay(job, event.time))
        case EventType.READY:
            text = "waits for a worker"
        case EventType.WAITING:
            text = _joined(_needs(job), _delay(job, event.time))
        case EventType.STARTED | EventType.CLAIMED | EventType.RELEASED:
            text = _hand_out(event)
        case EventType.PROGRESS:
            text = _joined(f"{job.progress} %", job.progress_message)
        case EventType.COMPLETED:
            text = _joined(f"attempt {job.attempt}", counted(job.result_count, "result") if job.result_count else "")
        case EventType.FAILED:
            text = _joined(_failure(job), _decision(event))
        case EventType.RETRYING:
            text = f"retry {job.retry_count} of {job.max_retries} in {span(detail.delay)}"
        case EventType.PERMANENTLY_FAILED:
            text = _decision(event)
        case EventType.CANCELLED:
            text = detail.reason or _cancelled_for(detail.cause, detail.cause_id)
        case EventType.STALE_DETECTED:
            text = f"attempt {job.attempt}, last report {clock(detail.heard_time)}"
        case EventType.USAGE:
            text = f"attempt {detail.attempt} used {detail.tokens:,} tokens, cost {detail.cost:g}"
    return text


def _hand_out(event: Event) -> str:
    """Who got an attempt, or that it was given back."""
    job, detail = event.job, event.detail
    if event.type is EventType.RELEASED:
        again = f"again in {span(detail.delay)}" if detail.delay else ""
        hold = f"its lane held for {span(detail.hold_lane)}" if detail.hold_lane else ""
        return _joined(f"attempt {detail.attempt} given back", detail.reason, again, hold)
    if detail.resumed:
        return f"attempt {job.attempt}, waits for a worker"
    worker = detail.worker if event.type is EventType.CLAIMED else job.worker
    return f"attempt {job.attempt}{_by(worker, detail.waited)}"


def _decision(event: Event) -> str:
    decision = event.detail.decision
    return "" if decision is None else _DECISIONS.get(decision, "")


def job_note(job: Job, now: datetime | None = None) -> str:
    """A note about a job: what matters in its present state."""
    match job.state:
        case State.QUEUED:
            return _queued_note(job, now or datetime.now(UTC))
        case State.PROCESSING if phase_of(job.state, claimed=job.claimed) is Phase.WAITING:
            return f"attempt {job.attempt} waits for a worker, {waiting_time(job, now)} so far"
        case State.PROCESSING:
            return job.progress_message if job.members is None else members_note(job.members)
        case State.RETRYING if job.next_retry_time is not None:
            return _wait_note(job, job.next_retry_time - (now or datetime.now(UTC)))
        case State.FAILED | State.PERMANENTLY_FAILED:
            return _failure(job)
        case State.CANCELLED:
            return job.cancel_reason or _cancelled_for(job.cancel_cause, job.cancel_cause_id)
        case State.COMPLETED:
            return counted(job.result_count, "result") if job.result_count else ""
    return ""


def members_note(members: GroupMembers) -> str:
    """How far the members of a group are."""
    counts = (
        (members.completed, "completed"),
        (members.permanently_failed, "failed"),
        (members.cancelled, "cancelled"),
    )
    ended = _joined(*(f"{number:,} {what}" for number, what in counts if number))
    return f"{ended or '0 completed'} of {members.total:,}"


def _cancelled_for(cause: CancelCause | None, cause_id: str) -> str:
    """Why a job was cancelled without a reason given."""
    if cause is CancelCause.EXPIRED:
        return NOT_BEGUN_IN_TIME
    if cause is CancelCause.NEED:
        return f"it needs {cause_id}, which ended otherwise"
    return f"its group {cause_id} is stopping" if cause is CancelCause.GROUP else ""


def waiting_time(job: Job, now: datetime | None = None) -> str:
    """How long the job has been waiting for a worker; empty if it is not. Never negative."""
    since = job.waiting_since
    if since is None:
        return ""
    if job.attempt > 1 and job.start_time is not None:
        # A released job keeps its ready_time, but did not wait while a worker had it.
        since = max(since, job.start_time)
    return span(max(timedelta(), (now or datetime.now(UTC)) - since))


def change_summary(job: Job) -> str:
    """The outcome of a change to a job, beside its id and state."""
    parts = [f"attempt {job.attempt}" if job.attempt else ""]
    if job.existing:
        parts.insert(0, "there already with this unique key")
    phase = phase_of(job.state, claimed=job.claimed)
    if phase is Phase.RUNNING and job.progress:
        parts.append(f"{job.progress} %")
    # The number of the attempt is shown already.
    is_resumed = phase is Phase.WAITING and job.attempt > 0
    parts.append("waits for a worker" if is_resumed else job_note(job))
    return _joined(*parts)


def _lane(job: Job) -> str:
    """The lane of a job, unless it is that of its source."""
    return f"lane {job.lane}" if job.lane and job.lane != job.source_id else ""


def _priority(job: Job) -> str:
    """The priority of a job, if it is not that of most."""
    is_usual = job.priority in {Priority.NORMAL, Priority.UNKNOWN}
    return "" if is_usual else f"priority {job.priority}"


def _needs(job: Job) -> str:
    """That a job waits for others."""
    return "waits for what it needs" if job.wait_reason is WaitReason.NEEDS else ""


def _delay(job: Job, now: datetime) -> str:
    """How long a job is still delayed."""
    if job.wait_reason is not WaitReason.TIME or job.ready_time is None or job.ready_time <= now:
        return ""
    return f"delayed for {span(job.ready_time - now)}"


def _queued_note(job: Job, now: datetime) -> str:
    """What a job waits for before its first attempt, unless it has been waiting for a worker from the beginning."""
    ready, end = job.ready_time, expire_time(job)
    was_delayed = ready is not None and job.create_time is not None and ready - job.create_time >= WAIT_SHOWN_FROM
    is_waiting = was_delayed and ready is not None and now - ready >= WAIT_SHOWN_FROM
    return _joined(
        _priority(job),
        _needs(job),
        _delay(job, now) or (f"waits for a worker, {waiting_time(job, now)} so far" if is_waiting else ""),
        f"expires in {span(end - now)}" if end is not None and end > now else "",
    )


def expire_time(job: Job) -> datetime | None:
    """When the server cancels the job unless its first attempt has begun; None if it does not."""
    if job.state is not State.QUEUED or job.start_within is None or job.ready_time is None:
        return None
    return job.ready_time + job.start_within


def releases(job: Job) -> int:
    """How often an attempt of the job has been given back. Every other new attempt is a retry."""
    # In RETRYING the next attempt has not been counted yet, and the retry has.
    attempts = job.attempt + (job.state is State.RETRYING)
    return max(0, attempts - 1 - job.retry_count)


def was_released(job: Job) -> bool:
    """Whether the job waits for an attempt because the one before was given back, not because it failed."""
    phase = phase_of(job.state, claimed=job.claimed)
    ended = {Phase.RETRYING: job.attempt, Phase.WAITING: job.attempt - 1}.get(phase, 0)
    return ended > 0 and (job.last_error is None or job.last_error.attempt != ended)


def _wait_note(job: Job, wait: timedelta) -> str:
    """Why a job waits for its next attempt, and for how long."""
    due = f"in {span(wait)}" if wait.total_seconds() > 0 else "due"
    if was_released(job):
        return f"given back, again {due}"
    return _joined(f"retry {job.retry_count} of {job.max_retries} {due}", _failure(job))


def _failure(job: Job) -> str:
    error = job.last_error
    if error is None:
        return ""
    return ": ".join(part for part in (error.code, error.message) if part)


def _by(worker: str, waited: timedelta | None) -> str:
    """The worker that claimed an attempt, and how long the attempt had waited, if that is worth showing."""
    wait = f", waited {span(waited)}" if waited is not None and waited >= WAIT_SHOWN_FROM else ""
    return (f" by {worker}" if worker else "") + wait


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
