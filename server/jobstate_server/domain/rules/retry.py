"""When a failed job is retried, how long it waits and how it is resumed."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.errors import RetryNotAllowed
from jobstate_server.domain.events import EventType, RetryDecision, Retrying, Started
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.lifecycle import Trigger, can_retry
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.claim import begin_attempt
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext, refuse_group
from jobstate_server.domain.rules.ready import end_delay


def retry_decision(context: RuleContext, job: Job, now: int) -> RetryDecision:
    """Whether a FAILED job is retried, or why not."""
    if can_retry(job, now):
        if context.job_types.policy(job.job_type).auto_retry:
            return RetryDecision.WILL_RETRY
        return RetryDecision.AWAITING_RETRY_CALL
    if job.last_error is not None and job.last_error.retryable:
        return RetryDecision.LIMIT_REACHED
    return RetryDecision.NOT_RETRYABLE


def retry_wait(context: RuleContext, job: Job) -> int:
    """Microseconds until the next attempt: the delay given with the failure, or the backoff of the job's type."""
    if job.retry_delay is not None:
        return job.retry_delay
    return context.job_types.policy(job.job_type).backoff_delay(job.retry_count, context.random())


def wait_for_retry(draft: Draft, wait: int) -> None:
    """Take the step from FAILED to RETRYING."""
    previous = draft.after.state
    state = draft.take(Trigger.RETRY)
    due = draft.now + wait
    job = draft.move()
    job.state = state
    job.retry_count += 1
    job.retry_delay = None
    job.next_retry_time = due
    job.due_time = due
    draft.emit(EventType.RETRYING, previous, Retrying(wait, due))


def resume(draft: Draft, trigger: Trigger) -> None:
    """Start the attempt that the job has waited for."""
    previous, due = draft.after.state, draft.after.next_retry_time
    # Not ``now``: retries resumed late, or many in one commit, keep the order in which their waits ended.
    start_time = draft.now if due is None else min(draft.now, due)
    begin_attempt(draft, draft.take(trigger), start_time)
    draft.move().ready_time = start_time
    draft.emit(EventType.STARTED, previous, Started(resumed=True))


def retry(context: RuleContext, job: Job, command: c.Retry, now: int) -> Change:
    """Retry a FAILED job. With ``immediately`` also end the wait of a RETRYING job, or the delay of a QUEUED one."""
    refuse_group(job, Trigger.RETRY, now)
    draft = Draft(job, command, now)
    if command.immediately and job.held:
        draft.take(Trigger.EXPEDITE)
        if job.open_needs:
            draft.move().ready_time = now
            draft.emit(EventType.WAITING, JobState.QUEUED)
        else:
            end_delay(draft, now)
        return draft
    if job.state is JobState.PERMANENTLY_FAILED:
        why = "limit reached" if job.last_error is not None and job.last_error.retryable else "not retryable"
        raise RetryNotAllowed(job.id, why, job.retry_count, job.max_retries)
    if job.state is not JobState.RETRYING:
        draft.take(Trigger.RETRY)
        wait_for_retry(draft, 0 if command.immediately else retry_wait(context, job))
    if command.immediately:
        resume(draft, Trigger.EXPEDITE)
    return draft


def retry_resting(context: RuleContext, job: Job, command: c.RetryResting, now: int) -> Change | None:
    """Retry a job that is in FAILED although its type retries automatically."""
    resting = job.state is JobState.FAILED and job.attempt == command.attempt
    if not resting or retry_decision(context, job, now) is not RetryDecision.WILL_RETRY:
        return None
    draft = Draft(job, command, now)
    wait_for_retry(draft, retry_wait(context, job))
    return draft


JOB_RULES: JobRules = {c.Retry: retry, c.RetryResting: retry_resting}
