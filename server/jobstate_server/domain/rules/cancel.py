"""How a job is cancelled, by a caller or because nobody began it in time."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.events import Cancelled, EventType
from jobstate_server.domain.job import AttemptOutcome, Job, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.attempt import end, end_attempt
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext
from jobstate_server.domain.waiting import CancelCause, is_ready


def cancel(_context: RuleContext, job: Job, command: c.Cancel, now: int) -> Change:
    """Cancel a job that is not in a final state, and end its attempt if one is running."""
    draft = Draft(job, command, now)
    end_as_cancelled(draft, CancelCause.CALLER, reason=command.reason)
    return draft


def expire(_context: RuleContext, job: Job, command: c.Expire, now: int) -> Change | None:
    """Cancel a job that nobody has begun in time."""
    overtaken = job.due_time != command.due_time or job.state is not JobState.QUEUED or not is_ready(job)
    if overtaken or command.due_time > now:
        return None
    draft = Draft(job, command, now)
    end_as_cancelled(draft, CancelCause.EXPIRED)
    return draft


def cancel_member(job: Job, group_id: str, now: int) -> Change:
    """Cancel a member of a group that is stopping."""
    draft = Draft(job, c.Cancel(job_id=job.id, caller=SERVER), now)
    end_as_cancelled(draft, CancelCause.GROUP, group_id)
    return draft


def end_as_cancelled(draft: Draft, cause: CancelCause, cause_id: str | None = None, *, reason: str = "") -> None:
    """Take the step to CANCELLED. ``cause_id``: the needed job, or the group, that is the cause."""
    previous = draft.after.state
    state = draft.take(Trigger.CANCEL)
    if previous is JobState.PROCESSING:
        end_attempt(draft, AttemptOutcome.CANCELLED, None)
    job = draft.move()
    end(job, state, draft.now)
    job.cancel_reason = reason
    job.cancel_cause = int(cause)
    job.cancel_cause_id = cause_id
    job.held = False
    job.next_retry_time = None
    draft.emit(EventType.CANCELLED, previous, Cancelled(reason, cause, cause_id))


JOB_RULES: JobRules = {c.Cancel: cancel, c.Expire: expire}
