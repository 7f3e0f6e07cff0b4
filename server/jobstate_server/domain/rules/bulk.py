"""How a bulk run begins, and which jobs of a slice it changes."""

from __future__ import annotations

from dataclasses import replace

from jobstate_server.domain.batch_view import View
from jobstate_server.domain.bulk import BeginBulkRun, BulkProgress, BulkStep, ChangeSome
from jobstate_server.domain.plan import Plan
from jobstate_server.domain.rules.context import PlanRules, RuleContext


def begin(_context: RuleContext, command: BeginBulkRun, view: View) -> Plan:
    """Begin a bulk run, unless its request id is known.

    Raises:
        RequestIdReused: the request id was used for another call.
        Overloaded: there is no room for another request id.
    """
    known = view.bulk_progress(command.request)
    if known is not None:
        return Plan((), 0, bulk=BulkStep(command.request, known))
    view.check_request_room(1)
    return Plan((), 0, bulk=BulkStep(command.request, BulkProgress(command.through), is_new=True))


def change_some(_context: RuleContext, command: ChangeSome, view: View) -> Plan:
    """Change those of the jobs of a slice that still match."""
    known = view.bulk_progress(command.request)
    if known is None or known != command.before:
        return Plan((), 0, bulk=BulkStep(command.request, known))
    chosen = []
    for change, key in zip(command.commands, command.keys, strict=True):
        job = view.jobs.get(change.job_id)
        if job is not None and job.create_sequence == key and command.wanted.still_admits(job):
            chosen.append(change)
    moved = replace(known, after=command.after, is_over=command.is_last)
    return Plan((), 0, bulk=BulkStep(command.request, moved, commands=tuple(chosen), acts=True))


PLAN_RULES: PlanRules = {BeginBulkRun: begin, ChangeSome: change_some}
