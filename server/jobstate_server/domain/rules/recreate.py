"""How a job that has ended is created once more, as a new job."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.errors import InvalidField, JobNotFound, TransitionNotAllowed
from jobstate_server.domain.events import Event, EventType
from jobstate_server.domain.job import Job
from jobstate_server.domain.lifecycle import allowed_triggers
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.rules.context import PlanRules, RuleContext, visible_job
from jobstate_server.domain.rules.ready import start_limit
from jobstate_server.domain.rules.repeats import answered_again


def recreate(context: RuleContext, command: c.Recreate, view: View) -> Plan:
    """Create a job with the terms of one that has ended.

    Raises:
        JobNotFound
        TransitionNotAllowed: the job has not ended, or is a group.
        UnknownJobType: jobs of its type may not be created any more.
        InvalidField: its unique key belongs to a job that this caller may not see.
    """
    if command.request is not None:
        earlier = view.earlier_call(command.request)
        if earlier is not None:
            return Plan((answered_again(earlier, command.caller),))
        view.check_request_room(1)
    old = visible_job(command, view)
    if old is None:
        raise JobNotFound(command.job_id)
    _check_ended(old, view.now)
    holder = _key_holder(old, command, view)
    if holder is not None:
        return Plan((Change(holder, holder, request=command.request, is_existing=True),))
    # This server may not know the type yet, but the store does.
    context.unnamed_types.learn([old.job_type])
    context.unnamed_types.check([old.job_type])
    new = _with_terms_of(old, command, view.now)
    event = Event(EventType.QUEUED, view.now, command.caller.actor, None, new, None, bool(new.metadata))
    return Plan((Change(None, new, (event,), request=command.request),))


def _check_ended(old: Job, now: int) -> None:
    if old.group_depth:
        why, because = " and a group", "group"
    elif not old.state.is_final:
        why, because = " and has not ended", ""
    else:
        return
    allowed = allowed_triggers(old, now)
    raise TransitionNotAllowed(old.id, old.state.name, "recreate", allowed, why, because=because)


def _key_holder(old: Job, command: c.Recreate, view: View) -> Job | None:
    """The job that has the unique key of the old one now: the work is in hand already."""
    if old.unique_key is None:
        return None
    holder = view.unique_holder((old.principal, old.job_type, old.unique_key))
    if holder is not None and not command.caller.reach.admits(holder.job_type, holder.source_id):
        raise InvalidField("id", "names a job whose unique_key belongs to a job that this caller may not see")
    return holder


def _with_terms_of(old: Job, command: c.Recreate, now: int) -> Job:
    """A new job that is ready, with what the creator of the old one asked for."""
    job = Job.new()
    job.id, job.job_type, job.source_id = command.new_id, old.job_type, old.source_id
    job.principal = command.caller.principal
    job.metadata = old.metadata
    job.max_retries, job.timeout = old.max_retries, old.timeout
    job.level, job.lane = old.level, old.lane
    job.create_time = job.update_time = job.heard_time = job.ready_time = now
    job.start_within = old.start_within
    job.due_time = start_limit(now, old.start_within)
    if old.unique_key is not None and old.principal == job.principal:
        # A key is one of its caller. Another caller cannot hold it.
        job.unique_key, job.unique_until = old.unique_key, old.unique_until
    job.labels = old.labels
    job.recreated_from = old.id
    return job


PLAN_RULES: PlanRules = {c.Recreate: recreate}
