"""How a job is cancelled."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.events import Cancelled, EventType
from jobstate_server.domain.job import AttemptOutcome, Job, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.attempt import end_attempt
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext


def cancel(_context: RuleContext, job: Job, command: c.Cancel, now: int) -> Change:
    """Cancel a job that is not in a final state, and end its attempt if one is running."""
    draft = Draft(job, command, now)
    state = draft.take(Trigger.CANCEL)
    if job.state is JobState.PROCESSING:
        end_attempt(draft, AttemptOutcome.CANCELLED, None)
    after = draft.move()
    after.state = state
    after.cancel_reason = command.reason
    after.complete_time = now
    after.next_retry_time = None
    after.due_time = None
    draft.emit(EventType.CANCELLED, job.state, Cancelled(command.reason))
    return draft


JOB_RULES: JobRules = {c.Cancel: cancel}
