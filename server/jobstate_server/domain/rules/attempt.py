"""What the worker of an attempt reports: progress, completion, failure."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.errors import AttemptRequired, AttemptSuperseded, TransitionNotAllowed
from jobstate_server.domain.events import EventType, Failed, PermanentlyFailed, RetryDecision
from jobstate_server.domain.job import FINAL_STATES, Attempt, AttemptOutcome, Job, JobError, JobState, saturating_add
from jobstate_server.domain.lifecycle import Trigger, allowed_triggers
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.claim import claim
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext, refuse_group
from jobstate_server.domain.rules.retry import retry_decision, retry_wait, wait_for_retry
from jobstate_server.domain.rules.usage import add_usage


def check_attempt(job: Job, command: c.AttemptCommand, trigger: Trigger, now: int) -> None:
    """Refuse a worker whose attempt is not the running one.

    Raises:
        TransitionNotAllowed, AttemptRequired, AttemptSuperseded
    """
    refuse_group(job, trigger, now)
    if job.state in FINAL_STATES:
        raise TransitionNotAllowed(job.id, job.state.name, trigger.value, allowed_triggers(job, now))
    if command.attempt is None:
        if job.attempt > 1:
            raise AttemptRequired(job.id, job.attempt, job.state.name)
    elif job.state is not JobState.PROCESSING or command.attempt != job.attempt:
        raise AttemptSuperseded(job.id, command.attempt, job.attempt, job.state.name)


def reported(job: Job, command: c.AttemptCommand, trigger: Trigger, now: int) -> Draft:
    """Begin the change that a report makes. A report claims the attempt if no worker has yet.

    Raises:
        TransitionNotAllowed, AttemptRequired, AttemptSuperseded
    """
    check_attempt(job, command, trigger, now)
    draft = Draft(job, command, now)
    if not job.claimed and job.state is JobState.PROCESSING:
        claim(draft, "")
    return draft


def update_progress(context: RuleContext, job: Job, command: c.UpdateProgress, now: int) -> Change:
    """Store the reported progress."""
    draft = reported(job, command, Trigger.PROGRESS, now)
    draft.take(Trigger.PROGRESS)
    after = draft.report()
    after.heard_time = now
    if command.is_heartbeat:
        return draft
    after.update_time = now
    add_usage(after, command.usage)
    if command.progress is not None:
        after.progress = command.progress
    if command.message is not None:
        after.progress_message = command.message
    if command.metadata:
        after.metadata = context.merge(job.metadata, command.metadata)
    draft.emit(EventType.PROGRESS, job.state, with_metadata=bool(command.metadata))
    return draft


def complete(_context: RuleContext, job: Job, command: c.Complete, now: int) -> Change:
    """Complete the job."""
    draft = reported(job, command, Trigger.COMPLETE, now)
    state = draft.take(Trigger.COMPLETE)
    after = draft.move()
    add_usage(after, command.usage)
    end_attempt(draft, AttemptOutcome.COMPLETED, None)
    end(after, state, now)
    after.progress = 100
    if command.result_count is not None:
        after.result_count = command.result_count
    if command.result:
        after.result = command.result
    draft.emit(EventType.COMPLETED, job.state, with_result=bool(command.result))
    return draft


def fail(context: RuleContext, job: Job, command: c.Fail, now: int) -> Change:
    """Fail the attempt."""
    draft = reported(job, command, Trigger.FAIL, now)
    add_usage(draft.move(), command.usage)
    error = JobError(command.code, command.message, command.retryable, command.details, job.attempt, now)
    fail_attempt(context, draft, error, command.retry_delay)
    return draft


def end(job: Job, state: JobState, now: int) -> None:
    """Put a job into a final state. If it is needed, the jobs that need it are told in a later transaction: its due
    time, which is stored in the same one as its end, sees to that."""
    job.state = state
    job.complete_time = now
    job.due_time = now if job.needed else None


def end_attempt(draft: Draft, outcome: AttemptOutcome, error: JobError | None) -> None:
    """Make the record of the running attempt, which ends now."""
    job = draft.move()
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
    job.duration = saturating_add(job.duration, worked)
    job.attempt_deadline = None
    job.due_time = None


def fail_attempt(context: RuleContext, draft: Draft, error: JobError, retry_delay: int | None = None) -> None:
    """Take the step ``fail`` and, in the same commit, the automatic step after it."""
    previous = draft.after.state
    state = draft.take(Trigger.FAIL)
    end_attempt(draft, AttemptOutcome.FAILED, error)
    job = draft.move()
    job.state = state
    job.last_error = error
    job.retry_delay = retry_delay
    decision = retry_decision(context, job, draft.now)
    wait = retry_wait(context, job)
    will_retry = decision is RetryDecision.WILL_RETRY
    draft.emit(EventType.FAILED, previous, Failed(error, decision, draft.now + wait if will_retry else None))
    if will_retry:
        wait_for_retry(draft, wait)
    elif decision is not RetryDecision.AWAITING_RETRY_CALL:
        given_up = draft.take(Trigger.GIVE_UP)
        end(draft.move(), given_up, draft.now)
        draft.emit(EventType.PERMANENTLY_FAILED, state, PermanentlyFailed(decision))


JOB_RULES: JobRules = {c.UpdateProgress: update_progress, c.Complete: complete, c.Fail: fail}
