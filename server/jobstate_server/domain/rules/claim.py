"""How an attempt starts and how a worker claims it."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.events import Claimed, EventType, Started
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext


def start(_context: RuleContext, job: Job, command: c.Start, now: int) -> Change:
    """Start the first attempt, or claim one that the server resumed."""
    draft = Draft(job, command, now)
    if job.state is JobState.PROCESSING:
        draft.take(Trigger.CLAIM, asked_as=Trigger.START)
        claim(draft, command.worker)
        return draft
    begin_attempt(draft, draft.take(Trigger.START), now)
    _give_to_worker(draft, command.worker)
    draft.emit(EventType.STARTED, job.state, Started(resumed=False, waited=max(0, now - draft.after.ready_time)))
    return draft


def begin_attempt(draft: Draft, state: JobState, start_time: int) -> None:
    """Start the next attempt, which no worker has claimed yet."""
    job = draft.move()
    job.state = state
    job.attempt += 1
    job.claimed = False
    job.worker = ""
    job.progress = 0
    job.progress_message = ""
    job.attempt_tokens = 0
    job.attempt_cost_nano = 0
    job.start_time = start_time
    job.claim_time = None
    job.heard_time = draft.now
    job.next_retry_time = None
    job.attempt_deadline = None
    job.due_time = None


def claim(draft: Draft, worker: str) -> None:
    """Claim the attempt that the server resumed for a worker. All its limits count from here."""
    _give_to_worker(draft, worker)
    waited = max(0, draft.now - draft.after.ready_time)
    draft.emit(EventType.CLAIMED, JobState.PROCESSING, Claimed(worker, waited))


def _give_to_worker(draft: Draft, worker: str) -> None:
    job = draft.move()
    job.claimed = True
    job.claim_time = job.heard_time = draft.now
    job.worker = worker
    job.attempt_deadline = job.due_time = None if job.timeout is None else draft.now + job.timeout


JOB_RULES: JobRules = {c.Start: start}
