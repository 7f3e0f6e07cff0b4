"""How the jobs of recurring entries are created."""

from __future__ import annotations

from jobstate_server.domain.batch_view import View
from jobstate_server.domain.plan import Plan
from jobstate_server.domain.recurring import INSTANT_AHEAD_MAX, CreateRecurring, TakenInstant
from jobstate_server.domain.rules.context import PlanRules, RuleContext
from jobstate_server.domain.rules.create import create


def create_recurring(context: RuleContext, command: CreateRecurring, view: View) -> Plan | None:
    """Create the job of an instant, unless it has its job. None if another server has the entry in hand.

    Raises:
        JobExists, UnknownJobType, InvalidField
    """
    latest = view.latest_instant(command.task)
    if latest is None:
        return None
    # By the time of the transaction: this server may have been suspended since it gave the command.
    wall = view.now - command.ahead
    if command.due <= latest <= wall + INSTANT_AHEAD_MAX:
        return Plan(())
    job = command.create
    change = create(context, view.jobs.get(job.job_id), job, view.now)
    return Plan((change,), instant=TakenInstant(command.task, command.due, job.job_id, command.replica))


PLAN_RULES: PlanRules = {CreateRecurring: create_recurring}
