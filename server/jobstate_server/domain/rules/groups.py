"""What happens to groups: they are closed by callers, and run by the server."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.errors import JobNotFound, NotAGroup
from jobstate_server.domain.events import EventType
from jobstate_server.domain.groups import PROGRESS_INTERVAL, Group, GroupStep, next_step
from jobstate_server.domain.job import AttemptOutcome, Job, JobError, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change, Plan, ServedGroup
from jobstate_server.domain.rules.attempt import end, end_attempt, fail_attempt
from jobstate_server.domain.rules.cancel import cancel_member
from jobstate_server.domain.rules.context import Draft, PlanRules, RuleContext, visible_job
from jobstate_server.domain.rules.needs import LOCKED_RETRY

MEMBERS_FAILED = "MEMBERS_FAILED"
"""The error code of a group of which more members have failed than it tolerates."""


def close_group(_context: RuleContext, command: c.CloseGroup, view: View) -> Plan:
    """Say that a group has all its members. Closing it again changes nothing.

    Raises:
        JobNotFound, NotAGroup
    """
    job = visible_job(command, view)
    if job is None:
        raise JobNotFound(command.job_id)
    if not job.group_depth:
        raise NotAGroup(job.id, "id")
    is_open = not (job.state.is_final or view.relations.group(job).closed)
    return Plan((Change(job, job),), closed_group=job if is_open else None)


def run_group(context: RuleContext, command: c.RunGroup, view: View) -> Plan | None:
    """Do what is to be done with a due group.

    It is decided on what was stored when the transaction began: when all members had ended by then, none can have been
    added since. What this transaction changes makes the group due again.
    """
    job = view.jobs.get(command.job_id)
    if job is None or not job.group_depth:
        return None
    group, now = view.relations.stored_group(job), max(view.now, job.update_time)
    step = next_step(group)
    if step is GroupStep.CANCEL_MEMBERS:
        return _cancel_members(job, view)
    changes: tuple[Change, ...] = ()
    if job.state is JobState.PROCESSING:
        if step is not None:
            changes = (_ended(context, job, group, step, command, now),)
        elif group.progress != job.progress:
            may_report = _next_report(job)
            if now < may_report:
                return Plan((), 0, served_group=ServedGroup(job, None, may_report))
            changes = (_progressed(job, group, command, now),)
    return Plan(changes, 0, served_group=ServedGroup(job, group.progress))


def _cancel_members(job: Job, view: View) -> Plan:
    """Cancel some of the members of a stopping group."""
    members = [view.jobs[member_id] for member_id in view.relations.unfinished_members(job)]
    changes = tuple(
        cancel_member(member, job.id, max(view.now, member.update_time))
        for member in members
        if not member.state.is_final
    )
    # If none were found, others have them in hand.
    look_again = None if members else view.now + LOCKED_RETRY
    served = ServedGroup(job, view.relations.stored_group(job).progress, look_again)
    return Plan(changes, 0, served_group=served, has_more=bool(members))


def _next_report(group: Job) -> int:
    """When a running group may report its progress.

    Another server that found it due at the same time may have reported just now. Only its reports change a group that
    runs.
    """
    has_reported = group.update_time != group.start_time
    return group.update_time + PROGRESS_INTERVAL if has_reported else 0


def _progressed(job: Job, group: Group, command: c.RunGroup, now: int) -> Change:
    draft = Draft(job, command, now)
    draft.take(Trigger.PROGRESS)
    draft.move().progress = group.progress
    draft.emit(EventType.PROGRESS, job.state)
    return draft


def _ended(context: RuleContext, job: Job, group: Group, step: GroupStep, command: c.RunGroup, now: int) -> Change:
    """End a group all of whose members have ended."""
    draft = Draft(job, command, now)
    if step is GroupStep.FAIL:
        tolerated = group.policy.tolerated_failures
        text = f"{group.failures} of {group.counts.total} members did not complete, {tolerated} are tolerated"
        fail_attempt(context, draft, JobError(MEMBERS_FAILED, text, False, b"", job.attempt, now))
        return draft
    state = draft.take(Trigger.COMPLETE)
    end_attempt(draft, AttemptOutcome.COMPLETED, None)
    after = draft.move()
    end(after, state, now)
    after.progress = 100
    draft.emit(EventType.COMPLETED, job.state)
    return draft


PLAN_RULES: PlanRules = {c.CloseGroup: close_group, c.RunGroup: run_group}
