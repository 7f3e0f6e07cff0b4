"""The usage of attempts: totals that can only grow, while an attempt runs and after it has ended."""

from __future__ import annotations

from dataclasses import replace

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.errors import InvalidField, JobNotFound
from jobstate_server.domain.events import Event, EventType, Used
from jobstate_server.domain.job import Attempt, Job, Usage, saturating_add
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.rules.context import PlanRules, RuleContext, refuse_group, visible_job


def add_usage(job: Job, usage: Usage) -> None:
    """Set the total usage of the running attempt, and the sums of the job.

    A total can only grow: a report that arrives late, or twice, adds nothing.
    """
    if usage.tokens is not None and usage.tokens > job.attempt_tokens:
        job.estimated_tokens = saturating_add(job.estimated_tokens, usage.tokens - job.attempt_tokens)
        job.attempt_tokens = usage.tokens
    if usage.cost_nano is not None and usage.cost_nano > job.attempt_cost_nano:
        job.estimated_cost_nano = saturating_add(job.estimated_cost_nano, usage.cost_nano - job.attempt_cost_nano)
        job.attempt_cost_nano = usage.cost_nano


def report_usage(_context: RuleContext, command: c.ReportUsage, view: View) -> Plan:
    """Add the usage of an attempt to its job, whatever the state of the job.

    Raises:
        JobNotFound
        TransitionNotAllowed: the job is a group, whose usage is that of its members.
        InvalidField: the job never had this attempt.
    """
    job = visible_job(command, view)
    if job is None:
        raise JobNotFound(command.job_id)
    refuse_group(job, Trigger.PROGRESS, view.now)
    ended = view.ended_attempt(command.job_id, command.attempt)
    return Plan((_used(job, command, ended, max(view.now, job.update_time)),))


def _used(job: Job, command: c.ReportUsage, ended: Attempt | None, now: int) -> Change:
    """The change that the report makes, which is none if no total grows.

    It does not claim the attempt and does not count as a heartbeat.

    Args:
        ended: the record of the attempt, if it has ended.
    """
    number = command.attempt
    if not 1 <= number <= job.attempt:
        raise InvalidField("attempt", f"is {number}, but job {job.id!r} has begun {job.attempt} attempts so far")
    after = job.moved()
    # Until the next attempt starts, the job itself has the totals of its last attempt.
    is_latest = number == job.attempt
    if not is_latest:
        assert ended is not None, "every attempt but the last has a record"
        after.attempt_tokens, after.attempt_cost_nano = ended.tokens, ended.cost_nano
    before = after.attempt_tokens, after.attempt_cost_nano
    add_usage(after, command.usage)
    totals = tokens, cost_nano = after.attempt_tokens, after.attempt_cost_nano
    if totals == before:
        return Change(job, job)
    if not is_latest:
        after.attempt_tokens, after.attempt_cost_nano = job.attempt_tokens, job.attempt_cost_nano
    after.update_time = now
    event = Event(EventType.USAGE, now, command.caller.actor, job.state, after, Used(number, tokens, cost_nano))
    amended = None if ended is None else replace(ended, tokens=tokens, cost_nano=cost_nano)
    return Change(job, after, (event,), amended=amended)


PLAN_RULES: PlanRules = {c.ReportUsage: report_usage}
