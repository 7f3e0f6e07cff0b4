"""How a job is cancelled, by a caller or because nobody began it in time."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.events import Cancelled, EventType
from jobstate_server.domain.job import AttemptOutcome, Job, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.attempt import end_attempt
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext
from jobstate_server.domain.waiting import CancelCause, is_ready


def cancel(_context: RuleContext, job: Job, command: c.Cancel, now: int) -> Change:
    """Cancel a job that is not in a final state, and end its attempt if one is running."""
    draft = Draft(job, command, now)
    _end_as_cancelled(draft, command.reason, CancelCause.CALLER)
    return draft


def expire(_context: RuleContext, job: Job, command: c.Expire, now: int) -> Change | None:
    """Cancel a job that nobody has begun in time."""
    overtaken = job.due_time != command.due_time or job.state is not JobState.QUEUED or not is_ready(job)
    if overtaken or command.due_time > now:
        return None
    draft = Draft(job, command, now)
    _end_as_cancelled(draft, "", CancelCause.EXPIRED)
    return draft


def _end_as_cancelled(draft: Draft, reason: str, cause: CancelCause) -> None:
    """Take the step to CANCELLED."""
    previous = draft.after.state
    state = draft.take(Trigger.CANCEL)
    if previous is JobState.PROCESSING:
        end_attempt(draft, AttemptOutcome.CANCELLED, None)
    job = draft.move()
    job.state = state
    job.cancel_reason = reason
    job.cancel_cause = int(cause)
    job.held = False
    job.complete_time = draft.now
    job.next_retry_time = None
    job.due_time = None
    draft.emit(EventType.CANCELLED, previous, Cancelled(reason, cause))


JOB_RULES: JobRules = {c.Cancel: cancel, c.Expire: expire}
