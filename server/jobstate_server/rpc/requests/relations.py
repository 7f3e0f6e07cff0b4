"""What a Create says of other jobs: those that it needs, its group, and the attempt that creates it."""

from __future__ import annotations

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain import limits
from jobstate_server.domain.groups import TOLERATES_ANY, GroupPolicy, OnExcess
from jobstate_server.domain.needs import Need, NeedCondition
from jobstate_server.rpc.requests.problems import Problems

ATTEMPT_MAX = 2**31 - 1

_NOT_OF_GROUPS = (
    "max_retries",
    "timeout",
    "priority",
    "lane",
    "delay",
    "not_before_time",
    "start_within",
    "needs",
    "unique_until",
)
"""Fields of Create about the hand-out and the attempts of workers. The server itself runs groups, from the start."""


def relations_in(request: pb.CreateRequest, problems: Problems) -> c.Relations | None:
    """How the new job is related to others. None if it is not, as in most calls. Not valid if there are problems."""
    is_group, has_creator = request.HasField("group"), request.HasField("by")
    if not (request.needs or request.group_id or is_group or has_creator):
        return None
    if request.group_id:
        problems.job_id("group_id", request.group_id)
    group = _group(request, problems) if is_group else None
    by = None
    if has_creator:
        problems.job_id("by.id", request.by.id)
        problems.within("by.attempt", request.by.attempt, 1, ATTEMPT_MAX)
        by = c.AttemptRef(request.by.id, request.by.attempt)
    return c.Relations(_needs(request, problems), request.group_id, group, by)


def _group(request: pb.CreateRequest, problems: Problems) -> GroupPolicy:
    given = {field.name for field, _ in request.ListFields()}
    for name in _NOT_OF_GROUPS:
        if name in given:
            problems.add(name, "is not for groups, which the server runs from their creation: give it to the members")
    policy = request.group
    bounds = TOLERATES_ANY, limits.TOLERATED_FAILURES_MAX
    problems.within("group.tolerated_failures", policy.tolerated_failures, *bounds)
    if policy.on_excess and policy.on_excess not in job_pb2.OnExcess.values():
        problems.add("group.on_excess", f"{policy.on_excess} is not a valid value of this enum")
        return GroupPolicy(policy.tolerated_failures)
    return GroupPolicy(policy.tolerated_failures, OnExcess(policy.on_excess or OnExcess.FINISH))


def _needs(request: pb.CreateRequest, problems: Problems) -> tuple[Need, ...]:
    if not problems.count("needs", len(request.needs), limits.NEEDS_MAX):
        return ()
    needs: dict[str, Need] = {}
    for place, need in enumerate(request.needs):
        problems.job_id(f"needs[{place}].job_id", need.job_id)
        if need.job_id in needs:
            problems.add(f"needs[{place}].job_id", f"{need.job_id!r} is needed twice")
        condition = need.condition or NeedCondition.COMPLETED
        if condition in job_pb2.NeedCondition.values():
            needs[need.job_id] = Need(need.job_id, NeedCondition(condition))
        else:
            problems.add(f"needs[{place}].condition", f"{condition} is not a valid value of this enum")
    return tuple(needs.values())
