"""What the server does with due jobs: it ends delays, cancels what expired, starts retries, fails attempts, and tells
what needs them of their ends. Groups are due when there is something to do with them."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.job import Job, JobError, JobState
from jobstate_server.domain.lifecycle import Trigger, next_state
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.reads import Due
from jobstate_server.domain.rules.attempt import fail_attempt
from jobstate_server.domain.rules.claim import limit_of_attempt
from jobstate_server.domain.rules.context import Draft, JobRules, PlanRules, RuleContext
from jobstate_server.domain.rules.maintenance import fail_as_stale
from jobstate_server.domain.rules.retry import resume as begin_resumed

ATTEMPT_TIMEOUT = "ATTEMPT_TIMEOUT"
"""The error code of an attempt that exceeded its timeout."""


def serve_due(_context: RuleContext, command: c.ServeDue, view: View) -> Plan:
    """Decide on each job that is still due, with one command for each job."""
    commands: list[c.Command] = []
    for job_id in view.due(Due(command.limit)):
        job = view.jobs.get(job_id)
        # A command of this batch may have changed the job since it was selected.
        if job is not None and job.due_time is not None and job.due_time <= view.now:
            kind = _command_for(job)
            commands.append(kind(job_id=job_id, caller=command.caller, attempt=job.attempt, due_time=job.due_time))
    for group_id in view.relations.due_groups(Due(command.limit)):
        job = view.jobs.get(group_id)
        if job is not None:
            commands.append(c.RunGroup(job_id=group_id, caller=command.caller, attempt=job.attempt))
    return Plan((), 0, tuple(commands))


def _command_for(job: Job) -> type[c.Resume | c.MakeReady | c.Expire | c.ResolveNeeds | c.TimeOut]:
    if job.state is JobState.RETRYING:
        return c.Resume
    if job.state is JobState.QUEUED:
        return c.MakeReady if job.held else c.Expire
    return c.ResolveNeeds if job.state.is_final else c.TimeOut


def resume(_context: RuleContext, job: Job, command: c.Resume, now: int) -> Change | None:
    """Start the next attempt of a job whose wait is over. No worker has claimed it yet."""
    overtaken = job.attempt != command.attempt or job.due_time != command.due_time
    if overtaken or next_state(Trigger.RESUME, job, now) is None:
        return None
    draft = Draft(job, command, now)
    begin_resumed(draft, Trigger.RESUME)
    return draft


def time_out(context: RuleContext, job: Job, command: c.TimeOut, now: int) -> Change | None:
    """Fail an attempt that has exceeded its timeout or its lease.

    A heartbeat does not move ``due_time``, so a lease is only looked at when it would have ended without any. If the
    worker has reported since, ``due_time`` is moved to when it must have reported again.
    """
    overtaken = job.attempt != command.attempt or job.due_time != command.due_time
    if overtaken or job.state is not JobState.PROCESSING or command.due_time > now:
        return None
    draft = Draft(job, command, now)
    if job.lease is not None and (job.attempt_deadline is None or job.attempt_deadline > now):
        if job.heard_time + job.lease > now:
            after = job.moved()
            after.due_time = limit_of_attempt(job)
            return Change(job, after)
        fail_as_stale(context, draft, job.lease)
        return draft
    seconds = f"{(job.timeout or 0) / 1_000_000:.6f}".rstrip("0").rstrip(".")
    error = JobError(ATTEMPT_TIMEOUT, f"the attempt exceeded its timeout of {seconds} s", True, b"", job.attempt, now)
    fail_attempt(context, draft, error)
    return draft


JOB_RULES: JobRules = {c.Resume: resume, c.TimeOut: time_out}
PLAN_RULES: PlanRules = {c.ServeDue: serve_due}
