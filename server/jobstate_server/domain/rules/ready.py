"""When a new job may be begun: its delay, and until when somebody must have begun it."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.durations import DAY
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.events import EventType
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.lifecycle import Trigger, next_state
from jobstate_server.domain.limits import DELAY_MAX
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.context import Draft, JobRules, RuleContext


def set_beginning(job: Job, command: c.Create, now: int) -> None:
    """Set the fields of a new job that say from when and until when it may be begun. Raises InvalidField."""
    if not command.delay and command.not_before_time is None and command.start_within is None:
        job.ready_time = now
        return
    ready_time = now + command.delay if command.not_before_time is None else max(now, command.not_before_time)
    if ready_time - now > DELAY_MAX:
        raise InvalidField("not_before_time", f"is more than {DELAY_MAX // DAY} days away")
    job.held = ready_time > now
    job.ready_time = ready_time
    job.start_within = command.start_within
    job.due_time = ready_time if job.held else start_limit(ready_time, command.start_within)


def start_limit(ready_time: int, start_within: int | None) -> int | None:
    """Until when somebody must have begun a job that is ready. None means for ever."""
    return None if start_within is None else ready_time + start_within


def wait_for_needs(job: Job, count: int) -> None:
    """A new job has so many needs that are not met. Its delay goes on, but ends only with the last of them."""
    job.open_needs = count
    job.held = True
    job.due_time = None


def meet_need(draft: Draft) -> None:
    """One more need of a job that waits is met. With the last one it can be begun, unless it is delayed."""
    waits = draft.after
    is_last = waits.open_needs == 1
    job = draft.move() if is_last else draft.move_quietly()
    job.open_needs -= 1
    if not is_last:
        return
    if waits.ready_time <= draft.now:
        draft.take(Trigger.READY)
        end_delay(draft, draft.now)
    else:
        job.due_time = job.ready_time
        draft.emit(EventType.WAITING, JobState.QUEUED)


def make_ready(_context: RuleContext, job: Job, command: c.MakeReady, now: int) -> Change | None:
    """End the delay of a job whose time has come."""
    overtaken = job.due_time != command.due_time or job.state is not JobState.QUEUED
    if overtaken or next_state(Trigger.READY, job, now) is None:
        return None
    draft = Draft(job, command, now)
    draft.take(Trigger.READY)
    # Not ``now``: jobs that are made ready late, or many in one commit, keep the order in which their delays ended.
    end_delay(draft, job.ready_time)
    return draft


def end_delay(draft: Draft, ready_time: int) -> None:
    """From now on the job can be begun."""
    job = draft.move()
    job.held = False
    job.ready_time = ready_time
    job.due_time = start_limit(ready_time, job.start_within)
    draft.emit(EventType.READY, JobState.QUEUED)


JOB_RULES: JobRules = {c.MakeReady: make_ready}
