"""What the worker of an attempt reports: progress, completion, failure."""

from __future__ import annotations

from typing import Any

from jobstate_server.domain import commands as c
from jobstate_server.domain.errors import AttemptRequired, AttemptSuperseded, TransitionNotAllowed
from jobstate_server.domain.events import Event, EventType, Failed, PermanentlyFailed, RetryDecision
from jobstate_server.domain.job import Attempt, AttemptOutcome, Job, JobError, JobState, saturating_add
from jobstate_server.domain.lifecycle import Facts, Trigger, allowed_triggers
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.claim import claim
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext
from jobstate_server.domain.rules.retry import retry_decision, retry_wait, wait_for_retry
from jobstate_server.domain.rules.usage import with_usage


def check_attempt(job: Job, command: c.AttemptCommand, trigger: Trigger, now: int) -> None:
    """Refuse a worker whose attempt is not the running one.

    Raises:
        TransitionNotAllowed, AttemptRequired, AttemptSuperseded
    """
    if job.state.is_final:
        raise TransitionNotAllowed(job.id, job.state.name, trigger.value, allowed_triggers(Facts(job, now)))
    if command.attempt is None:
        if job.attempt > 1:
            raise AttemptRequired(job.id, job.attempt, job.state.name)
    elif job.state is not JobState.PROCESSING or command.attempt != job.attempt:
        raise AttemptSuperseded(job.id, command.attempt, job.attempt, job.state.name)


def _reported(job: Job, command: c.AttemptCommand, trigger: Trigger, now: int) -> Draft:
    """Begin the change that a report makes. A report claims the attempt if no worker has yet."""
    check_attempt(job, command, trigger, now)
    draft = Draft(job, command, now)
    if not job.claimed and job.state is JobState.PROCESSING:
        claim(draft, "")
    return draft


def update_progress(context: RuleContext, job: Job, command: c.UpdateProgress, now: int) -> Change:
    """Store the reported progress."""
    draft = _reported(job, command, Trigger.PROGRESS, now)
    draft.take(Trigger.PROGRESS)
    claimed = draft.job
    if command.is_heartbeat:
        after = claimed.reported(heard_time=now)
        return Change(job, after, tuple(draft.events), None, claimed is job, None, command.request)
    changes: dict[str, Any] = with_usage(claimed, command.usage)
    if command.progress is not None:
        changes["progress"] = command.progress
    if command.message is not None:
        changes["progress_message"] = command.message
    if command.metadata:
        changes["metadata"] = context.merge(job.metadata, command.metadata)
    after = claimed.reported(update_time=now, heard_time=now, **changes)
    event = Event(EventType.PROGRESS, now, command.caller.actor, job.state, after, None, bool(command.metadata))
    # Nearly every report is one event and no claim.
    events = (event,) if claimed is job else (*draft.events, event)
    return Change(job, after, events, None, claimed is job, None, command.request)


def complete(_context: RuleContext, job: Job, command: c.Complete, now: int) -> Change:
    """Complete the job."""
    draft = _reported(job, command, Trigger.COMPLETE, now)
    state = draft.take(Trigger.COMPLETE)
    changes: dict[str, Any] = with_usage(job, command.usage)
    if command.result_count is not None:
        changes["result_count"] = command.result_count
    if command.result:
        changes["result"] = command.result
    draft.set(progress=100, **changes)
    end_attempt(draft, AttemptOutcome.COMPLETED, None)
    draft.set(state=state, complete_time=now)
    draft.emit(EventType.COMPLETED, job.state, with_result=bool(command.result))
    return draft.change()


def fail(context: RuleContext, job: Job, command: c.Fail, now: int) -> Change:
    """Fail the attempt."""
    draft = _reported(job, command, Trigger.FAIL, now)
    usage = with_usage(job, command.usage)
    if usage:
        draft.set(**usage)
    error = JobError(command.code, command.message, command.retryable, command.details, job.attempt, now)
    fail_attempt(context, draft, error, command.retry_delay)
    return draft.change()


def end_attempt(draft: Draft, outcome: AttemptOutcome, error: JobError | None) -> None:
    """Make the record of the running attempt, which ends now."""
    job = draft.job
    worked = 0 if job.claim_time is None else max(0, draft.now - job.claim_time)
    draft.ended = Attempt(
        job_id=job.id,
        number=job.attempt,
        start_time=draft.now if job.start_time is None else job.start_time,
        claim_time=job.claim_time,
        end_time=draft.now,
        outcome=outcome,
        worker=job.worker,
        tokens=job.attempt_tokens,
        cost_nano=job.attempt_cost_nano,
        error=error,
    )
    draft.set(duration=saturating_add(job.duration, worked), attempt_deadline=None, due_time=None)


def fail_attempt(context: RuleContext, draft: Draft, error: JobError, retry_delay: int | None = None) -> None:
    """Take the step ``fail`` and, in the same commit, the automatic step after it."""
    previous = draft.job.state
    state = draft.take(Trigger.FAIL)
    end_attempt(draft, AttemptOutcome.FAILED, error)
    draft.set(state=state, last_error=error, retry_delay=retry_delay)
    decision = retry_decision(context, draft.job, draft.now)
    wait = retry_wait(context, draft.job)
    will_retry = decision is RetryDecision.WILL_RETRY
    draft.emit(EventType.FAILED, previous, Failed(error, decision, draft.now + wait if will_retry else None))
    if will_retry:
        wait_for_retry(draft, wait)
    elif decision is not RetryDecision.AWAITING_RETRY_CALL:
        draft.set(state=draft.take(Trigger.GIVE_UP), complete_time=draft.now)
        draft.emit(EventType.PERMANENTLY_FAILED, state, PermanentlyFailed(decision))


JOB_RULES: JobRules = {c.UpdateProgress: update_progress, c.Complete: complete, c.Fail: fail}
