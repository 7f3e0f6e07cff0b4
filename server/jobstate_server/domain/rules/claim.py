"""How an attempt starts and how a worker claims it."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.errors import TransitionNotAllowed
from jobstate_server.domain.events import Claimed, EventType, Started
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.lifecycle import Trigger, next_state
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext, refuse_group


def start(_context: RuleContext, job: Job, command: c.Start, now: int) -> Change:
    """Start the first attempt, or claim one that the server resumed."""
    refuse_group(job, Trigger.START, now)
    draft = Draft(job, command, now)
    if job.state is JobState.PROCESSING:
        draft.take(Trigger.CLAIM, asked_as=Trigger.START)
        claim(draft, command.worker)
        return draft
    begin_claimed(draft, command.worker)
    return draft


def refuse_stopping(job: Job, command: c.Start, view: View) -> None:
    """Refuse to start a member of a group that is stopping: the server is about to cancel it.

    Raises:
        TransitionNotAllowed
    """
    group_id = view.relations.stopping_group(job)
    if group_id and next_state(Trigger.CANCEL, job, view.now) is not None:
        why = f" and a member of {group_id!r}, which is stopping"
        raise TransitionNotAllowed(
            job.id, job.state.name, Trigger.START.value, (Trigger.CANCEL.value,), why, because="held back"
        )


def begin_claimed(draft: Draft, worker: str, lease: int | None = None) -> None:
    """Start the first attempt for a worker."""
    previous, now = draft.after.state, draft.now
    begin_attempt(draft, draft.take(Trigger.START), now)
    _give_to_worker(draft, worker, lease)
    draft.emit(EventType.STARTED, previous, Started(resumed=False, waited=max(0, now - draft.after.ready_time)))


def begin_attempt(draft: Draft, state: JobState, start_time: int) -> None:
    """Start the next attempt, which no worker has claimed yet. The job keeps its place in the order of hand-outs."""
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
    job.lease = None


def claim(draft: Draft, worker: str, lease: int | None = None) -> None:
    """Claim the attempt that the server resumed for a worker. All its limits count from here."""
    _give_to_worker(draft, worker, lease)
    waited = max(0, draft.now - draft.after.ready_time)
    draft.emit(EventType.CLAIMED, JobState.PROCESSING, Claimed(worker, waited))


def limit_of_attempt(job: Job) -> int | None:
    """When the claimed attempt must be looked at: its deadline, or the end of its lease if that is earlier."""
    if job.lease is None:
        return job.attempt_deadline
    lease_ends = job.heard_time + job.lease
    return lease_ends if job.attempt_deadline is None else min(job.attempt_deadline, lease_ends)


def _give_to_worker(draft: Draft, worker: str, lease: int | None) -> None:
    job = draft.move()
    job.claimed = True
    job.claim_time = job.heard_time = draft.now
    job.worker = worker
    job.lease = lease
    job.attempt_deadline = None if job.timeout is None else draft.now + job.timeout
    job.due_time = limit_of_attempt(job)


JOB_RULES: JobRules = {c.Start: start}
