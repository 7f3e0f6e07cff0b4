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
        return draft.change()
    begin_attempt(draft, draft.take(Trigger.START), now)
    _give_to_worker(draft, command.worker)
    draft.emit(EventType.STARTED, job.state, Started(resumed=False, waited=max(0, now - draft.job.ready_time)))
    return draft.change()


def begin_attempt(draft: Draft, state: JobState, start_time: int) -> None:
    """Start the next attempt, which no worker has claimed yet."""
    draft.set(
        state=state,
        attempt=draft.job.attempt + 1,
        claimed=False,
        worker="",
        progress=0,
        progress_message="",
        attempt_tokens=0,
        attempt_cost_nano=0,
        start_time=start_time,
        claim_time=None,
        heard_time=draft.now,
        next_retry_time=None,
        attempt_deadline=None,
        due_time=None,
    )


def claim(draft: Draft, worker: str) -> None:
    """Claim the attempt that the server resumed for a worker. All its limits count from here."""
    _give_to_worker(draft, worker)
    waited = max(0, draft.now - draft.job.ready_time)
    draft.emit(EventType.CLAIMED, JobState.PROCESSING, Claimed(worker, waited))


def _give_to_worker(draft: Draft, worker: str) -> None:
    timeout = draft.job.timeout
    deadline = None if timeout is None else draft.now + timeout
    draft.set(
        claimed=True,
        claim_time=draft.now,
        worker=worker,
        heard_time=draft.now,
        attempt_deadline=deadline,
        due_time=deadline,
    )


JOB_RULES: JobRules = {c.Start: start}
