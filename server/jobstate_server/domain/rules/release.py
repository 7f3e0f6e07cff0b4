"""How an attempt is given back without a verdict: by its worker, or by the server when nobody got it."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.errors import ReleaseLimitReached
from jobstate_server.domain.events import EventType, Released, Started
from jobstate_server.domain.job import AttemptOutcome, Job
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.limits import RELEASES_MAX
from jobstate_server.domain.plan import Change, LaneHold
from jobstate_server.domain.rules.attempt import end_attempt, reported
from jobstate_server.domain.rules.claim import begin_attempt
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext
from jobstate_server.domain.rules.usage import add_usage
from jobstate_server.domain.waiting import is_running, releases

NOT_DELIVERED = "not delivered"
"""The reason of a release when the call that claimed the attempt could not be answered."""


def release(_context: RuleContext, job: Job, command: c.Release, now: int) -> Change:
    """Give the attempt back. Without a delay the next attempt has the job's place in the order.

    Raises:
        TransitionNotAllowed, AttemptRequired, AttemptSuperseded, ReleaseLimitReached
    """
    draft = reported(job, command, Trigger.RELEASE, now)
    if releases(job) >= RELEASES_MAX:
        raise ReleaseLimitReached(job.id, job.attempt)
    add_usage(draft.move(), command.usage)
    _release(draft, command.reason, command.delay, command.hold_lane)
    return draft


def return_undelivered(_context: RuleContext, job: Job, command: c.ReturnUndelivered, now: int) -> Change | None:
    """Release an attempt that no worker knows of. If it cannot be released any more, its lease ends it."""
    if job.attempt != command.attempt or not is_running(job) or releases(job) >= RELEASES_MAX:
        return None
    draft = Draft(job, command, now)
    _release(draft, NOT_DELIVERED, 0)
    return draft


def _release(draft: Draft, reason: str, delay: int, hold_lane: int = 0) -> None:
    previous, number = draft.after.state, draft.after.attempt
    state = draft.take(Trigger.RELEASE)
    end_attempt(draft, AttemptOutcome.RELEASED, None)
    due = draft.now + delay
    job = draft.move()
    job.state = state
    job.next_retry_time = job.due_time = due
    draft.emit(EventType.RELEASED, previous, Released(number, reason, delay, due, hold_lane))
    if hold_lane:
        draft.hold = LaneHold(draft.now + hold_lane, reason)
    if not delay:
        begin_attempt(draft, draft.take(Trigger.RESUME), draft.now)
        draft.emit(EventType.STARTED, state, Started(resumed=True))


JOB_RULES: JobRules = {c.Release: release, c.ReturnUndelivered: return_undelivered}
