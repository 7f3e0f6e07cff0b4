"""The commands of maintenance: fail stale attempts, delete old jobs and erase jobs."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.erasing import EraseFinished
from jobstate_server.domain.errors import TransitionNotAllowed
from jobstate_server.domain.events import EventType, StaleDetected
from jobstate_server.domain.job import FinishedJob, Job, JobError, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change, Deletion, Plan
from jobstate_server.domain.reads import Named
from jobstate_server.domain.rules.attempt import fail_attempt
from jobstate_server.domain.rules.context import Draft, JobRules, PlanRules, RuleContext

STALE = "STALE"
"""The error code of an attempt that has not reported for longer than the stale threshold of its type."""


def mark_stale(context: RuleContext, job: Job, command: c.MarkStale, now: int) -> Change | None:
    """Fail an attempt that has not reported for too long."""
    overtaken = job.attempt != command.attempt or job.heard_time != command.heard_time or job.group_depth
    if overtaken or now < context.grace_until or job.state is not JobState.PROCESSING or not job.claimed:
        return None
    draft = Draft(job, command, now)
    fail_as_stale(context, draft, context.job_types.policy(job.job_type).stale_threshold)
    return draft


def fail_as_stale(context: RuleContext, draft: Draft, allowed_silence: int) -> None:
    """Fail the attempt, because its worker has been silent for too long."""
    job, now = draft.move(), draft.now
    draft.emit(EventType.STALE_DETECTED, job.state, StaleDetected(job.heard_time, allowed_silence))
    silence = (now - job.heard_time) / 1_000_000
    error = JobError(STALE, f"the attempt has not reported for {silence:.0f} s", True, b"", job.attempt, now)
    fail_attempt(context, draft, error)


def delete_finished(_context: RuleContext, command: c.DeleteFinished, view: View) -> Plan:
    """Delete jobs that ended long ago, but not those that others still need.

    No step leads out of a final state, so what was selected is still finished.
    """
    found = view.finished(command.selection)
    old = [job for job in found if not job.is_kept]
    last = found[-1] if found else None
    return Plan((), 0, deletion=Deletion(old, view.now, command.caller.actor, len(found), last))


def erase_finished(_context: RuleContext, command: EraseFinished, view: View) -> Plan:
    """Delete the jobs that are final, but not those that others still need."""
    gone: list[FinishedJob] = []
    left: list[FinishedJob] = []
    for job in view.finished(Named(command.job_ids)):
        (gone if job.state.is_final and not job.is_kept else left).append(job)
    deletion = Deletion(gone, view.now, command.caller.actor, len(gone) + len(left), left=left, erases=True)
    return Plan((), 0, deletion=deletion)


def refusal_to_erase(job: FinishedJob) -> TransitionNotAllowed:
    """Why a job that was named is not erased."""
    state = job.state
    if state.is_final:
        why = " but still needed by jobs that are not final"
        return TransitionNotAllowed(job.id, state.name, "erase", (), why, because="kept")
    return TransitionNotAllowed(job.id, state.name, "erase", (Trigger.CANCEL.value,))


JOB_RULES: JobRules = {c.MarkStale: mark_stale}
PLAN_RULES: PlanRules = {c.DeleteFinished: delete_finished, EraseFinished: erase_finished}
