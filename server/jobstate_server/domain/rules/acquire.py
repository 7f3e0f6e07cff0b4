"""How ready jobs are handed out to a worker that asks for work."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.errors import InvalidField, UnknownJobType
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.rules.cancel import cancel_member
from jobstate_server.domain.rules.claim import begin_claimed, claim
from jobstate_server.domain.rules.context import Draft, PlanRules, RuleContext

JOB_BYTES = 1_024
"""The assumed size of a job besides its documents, texts and names."""


def acquire(context: RuleContext, command: c.Acquire, view: View) -> Plan:
    """Claim the next jobs, as many as are ready and wanted. A repeat claims none.

    Raises:
        UnknownJobType, InvalidField, RequestIdReused, Overloaded
    """
    if command.request is not None:
        earlier = view.earlier_acquire(command.request)
        if earlier is not None:
            return Plan(tuple(Change(job, job) for job in earlier), answered=len(earlier))
    _check_types(context, command)
    changes: list[Change] = []
    stopped: list[Change] = []
    room = command.bytes_max
    for job in view.ready_jobs(command.job_types):
        if job.group_id is not None and (stopping := view.relations.stopping_group(job)):
            # It would be in the way of every Acquire until its turn to be cancelled comes.
            stopped.append(cancel_member(job, stopping, max(view.now, job.update_time)))
            continue
        room -= answered_bytes(job)
        if changes and room < 0:
            break
        changes.append(hand_out(context, job, command, max(view.now, job.update_time)))
        if len(changes) == command.max_jobs:
            break
    if changes and command.request is not None:
        view.check_request_room(1)
    # A call that got nothing can be repeated as it is.
    request = command.request if changes else None
    return Plan((*changes, *stopped), answered=len(changes), request=request, has_stopped=bool(stopped))


def hand_out(context: RuleContext, job: Job, command: c.Acquire, now: int) -> Change:
    """Begin the first attempt of a job, or claim the one that the server resumed."""
    lease = context.job_types.policy(job.job_type).lease if command.lease is None else command.lease
    draft = Draft(job, command, now)
    if job.state is JobState.PROCESSING:
        draft.take(Trigger.CLAIM)
        claim(draft, command.worker, lease)
    else:
        begin_claimed(draft, command.worker, lease)
    # It is stored with all jobs of the call together.
    draft.request = None
    return draft


def answered_bytes(job: Job) -> int:
    """About how large the job is in an answer."""
    texts = len(job.metadata) + len(job.result) + len(job.source_id) * 4 + len(job.progress_message) * 4
    error = job.last_error
    return JOB_BYTES + texts + (0 if error is None else len(error.details) + len(error.message) * 4)


def _check_types(context: RuleContext, command: c.Acquire) -> None:
    reach = command.caller.reach
    for index, name in enumerate(command.job_types):
        field = f"job_types[{index}]"
        if context.job_types.strict and not context.job_types.names(name):
            raise UnknownJobType(name, field)
        if not reach.admits_type(name):
            raise InvalidField(field, f"{name!r} is not a type that this caller may use")
    if reach.source_ids is not None:
        # Otherwise jobs of other sources would have to be read past, however many there are.
        raise InvalidField("job_types", "cannot be acquired by a caller that is confined to some sources")


def serve_waiting(_context: RuleContext, _command: c.ServeWaiting, _view: View) -> Plan:
    """Do nothing: every batch hands out what is ready to those who wait, after its own commands."""
    return Plan(())


PLAN_RULES: PlanRules = {c.Acquire: acquire, c.ServeWaiting: serve_waiting}
