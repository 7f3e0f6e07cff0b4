"""How the hand-out of a job type or lane is paused, and goes on."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.plan import Plan, TypePause
from jobstate_server.domain.rules.context import PlanRules, RuleContext


def pause(context: RuleContext, command: c.Pause, _view: View) -> Plan:
    """Pause a type or lane, or let it go on.

    Raises:
        UnknownJobType, InvalidField
    """
    if not command.caller.reach.admits_type(command.job_type):
        raise InvalidField("job_type", f"{command.job_type!r} is not a type that this caller may use")
    # A type that is paused is kept for ever, like one that has jobs.
    context.unnamed_types.check([command.job_type])
    context.unnamed_types.add(command.job_type)
    return Plan((), 0, pause=TypePause(command.job_type, command.lane, command.paused, command.reason))


PLAN_RULES: PlanRules = {c.Pause: pause}
