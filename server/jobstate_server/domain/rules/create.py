"""How jobs are created, alone or many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import EarlierCall, View
from jobstate_server.domain.errors import InvalidField, JobExists, RequestIdReused, UnknownJobType
from jobstate_server.domain.events import Event, EventType
from jobstate_server.domain.job import Job
from jobstate_server.domain.lanes import LaneFrom, lane_from
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.reach import EVERYTHING
from jobstate_server.domain.rules.context import JobRules, PlanRules, RuleContext
from jobstate_server.domain.rules.ready import set_beginning
from jobstate_server.domain.rules.relations import Relating
from jobstate_server.domain.rules.repeats import answered_again
from jobstate_server.domain.waiting import UniqueKey


def create(context: RuleContext, existing: Job | None, command: c.Create, now: int) -> Change:
    """Create one job.

    Raises:
        JobExists: also for a job that the caller may not see, because the caller has chosen the id.
        UnknownJobType, InvalidField
    """
    _check_reach(command)
    if existing is not None:
        raise JobExists(command.job_id)
    context.unnamed_types.check([command.job_type])
    policy = context.job_types.policy(command.job_type)
    timeout = policy.timeout if command.timeout is None else command.timeout
    # Set one by one: by name through a function they take three times as long.
    job = Job.new()
    job.id, job.job_type, job.source_id = command.job_id, command.job_type, command.source_id
    job.principal = command.caller.principal
    if command.metadata:
        job.metadata = context.merge(b"", command.metadata)
    job.max_retries = policy.max_retries if command.max_retries is None else command.max_retries
    job.timeout = None if command.no_timeout else timeout
    job.create_time = job.update_time = job.heard_time = now
    job.level = command.level
    if command.lane is not None:
        job.lane = command.lane
    elif policy.lane_from is not LaneFrom.NONE:
        job.lane = lane_from(policy.lane_from, command.source_id)
    set_beginning(job, command, now)
    if command.unique_key:
        job.unique_key, job.unique_until = command.unique_key, command.unique_until
    if command.labels is not None:
        job.labels = command.labels
    event = Event(EventType.QUEUED, now, command.caller.actor, None, job, None, bool(job.metadata))
    return Change(None, job, (event,), request=command.request)


def existing(command: c.Create, view: View, made: Mapping[UniqueKey, Job]) -> Change | None:
    """The answer to a Create whose unique key a job has already. None if it is free.

    Args:
        made: the jobs that earlier parts of the same batch make, by their unique keys.

    Raises:
        InvalidField: that job is out of the caller's reach.
    """
    if command.unique is None:
        return None
    holder = made.get(command.unique) or view.unique_holder(command.unique)
    if holder is None:
        return None
    _check_reach(command)
    if not command.caller.reach.admits(holder.job_type, holder.source_id):
        raise InvalidField("unique_key", "belongs to a job that this caller may not see")
    return Change(holder, holder, request=command.request, is_existing=True)


def _check_reach(command: c.Create) -> None:
    """Refuse a job that its creator could not see."""
    reach = command.caller.reach
    if reach is EVERYTHING:
        return
    if not reach.admits_type(command.job_type):
        raise InvalidField("job_type", f"{command.job_type!r} is not a type that this caller may use")
    if not reach.admits_source(command.source_id):
        raise InvalidField("source_id", f"{command.source_id!r} is not a source that this caller may use")


def batch_create(context: RuleContext, command: c.BatchCreate, view: View) -> Plan:
    """Create all of these jobs, or none. Errors name the request that they are about."""
    requests = [create.request for create in command.creates]
    earlier = [None if request is None else view.earlier_call(request) for request in requests]
    if any(earlier):
        return _answered_again(command, earlier)
    view.check_request_room(len(requests) - requests.count(None))
    _refuse_doubles(command)
    changes: list[Change] = []
    made: dict[UniqueKey, Job] = {}
    relating: Relating | None = None
    if any(part.relations is not None for part in command.creates):
        relating = Relating(view)
    for index, part in enumerate(command.creates):
        try:
            holder = existing(part, view, made) if part.unique_key else None
            change = holder or create(context, view.jobs.get(part.job_id), part, view.now)
            if relating is not None and holder is None:
                change = relating.made(change, part, f"requests[{index}].")
            if part.unique_key and part.unique is not None:
                made[part.unique] = change.after
            changes.append(change)
        except InvalidField as refusal:
            raise refusal.within(f"requests[{index}]") from refusal
    _check_types(context, command)
    if relating is None:
        return Plan(tuple(changes), answered=len(changes))
    return Plan((*changes, *relating.needed()), answered=len(changes), needs=relating.needs)


def create_related(context: RuleContext, command: c.Create, view: View) -> Plan:
    """Create one job that is related to others.

    Raises:
        JobExists, UnknownJobType, InvalidField, JobNotFound, NotAGroup, GroupClosed, AttemptSuperseded
    """
    relating = Relating(view)
    change = relating.made(create(context, view.jobs.get(command.job_id), command, view.now), command)
    return Plan((change, *relating.needed()), needs=relating.needs)


def _answered_again(command: c.BatchCreate, earlier: Sequence[EarlierCall | None]) -> Plan:
    changes = []
    for call in earlier:
        if call is None:
            # Some of these calls were made before and some were not, so this is a different batch.
            raise RequestIdReused(next(known.request_id for known in earlier if known is not None))
        changes.append(answered_again(call, command.caller))
    return Plan(tuple(changes), answered=len(changes))


def _refuse_doubles(batch: c.BatchCreate) -> None:
    """Refuse a batch that names an id or a request id twice."""
    ids: set[str] = set()
    keys: set[tuple[str, str]] = set()
    for part in batch.creates:
        if part.job_id in ids:
            raise JobExists(part.job_id)
        ids.add(part.job_id)
        if part.request is not None:
            if part.request.key in keys:
                raise RequestIdReused(part.request.request_id)
            keys.add(part.request.key)


def _check_types(context: RuleContext, batch: c.BatchCreate) -> None:
    """Refuse a batch with too many new job types, even if each of them alone may be used."""
    job_types = [part.job_type for part in batch.creates]
    try:
        context.unnamed_types.check(job_types)
    except UnknownJobType as refusal:
        raise refusal.within(f"requests[{job_types.index(refusal.job_type)}]") from refusal


JOB_RULES: JobRules = {c.Create: create}
PLAN_RULES: PlanRules = {c.BatchCreate: batch_create}
