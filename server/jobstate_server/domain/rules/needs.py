"""How the end of a job reaches those that need it."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.durations import MILLISECOND
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import OpenNeed, ResolvedNeed, is_met
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.rules.cancel import end_as_cancelled
from jobstate_server.domain.rules.context import Draft, PlanRules, RuleContext
from jobstate_server.domain.rules.ready import meet_need
from jobstate_server.domain.waiting import CancelCause

LOCKED_RETRY = 10 * MILLISECOND
"""When to look again for jobs that other replicas have in hand: about a commit."""


def resolve_needs(_context: RuleContext, command: c.ResolveNeeds, view: View) -> Plan | None:
    """Tell some of the jobs that need a job how it has ended. It stays due while there are others."""
    parent = view.jobs.get(command.job_id)
    if parent is None or not parent.state.is_final or parent.due_time != command.due_time:
        return None
    found = view.relations.open_needs(parent)
    changes: list[Change] = []
    resolved: list[ResolvedNeed] = []
    for need in found.needs:
        resolved.append(ResolvedNeed(need.child_key, need.position, parent.state))
        child = view.jobs.get(need.child_id)
        # Another job may have the id by now. One that was begun by hand, or has ended, waits for nothing.
        if child is not None and child.create_sequence == need.child_key and child.open_needs and child.held:
            changes.append(_told(child, parent, need, command, max(view.now, child.update_time)))
    has_more = bool(found.needs) and not found.is_all
    if not has_more:
        after = parent.moved()
        after.due_time = None if found.is_all else view.now + LOCKED_RETRY
        changes.append(Change(parent, after))
    return Plan(tuple(changes), 0, resolved=resolved, has_more=has_more)


def _told(child: Job, parent: Job, need: OpenNeed, command: c.ResolveNeeds, now: int) -> Change:
    """The change of a job that waits for one that has ended."""
    assert child.state is JobState.QUEUED
    draft = Draft(child, command, now)
    if is_met(need.condition, parent.state):
        meet_need(draft)
    else:
        end_as_cancelled(draft, CancelCause.NEED, parent.id)
    return draft


PLAN_RULES: PlanRules = {c.ResolveNeeds: resolve_needs}
