"""The maintenance requests that can be invalid."""

from __future__ import annotations

from jobstate.v1 import maintenance_service_pb2 as pb
from jobstate_server.domain import limits
from jobstate_server.maintenance.erase import Forgotten
from jobstate_server.rpc.requests.problems import Problems
from jobstate_server.wire.times import span_from


def cleanup_age(request: pb.CleanupRequest) -> int | None:
    """The minimum age of what a Cleanup deletes. None means the setting. Raises InvalidField."""
    if not request.HasField("older_than"):
        return None
    problems = Problems()
    low, rule = (0, "0 or more") if request.force else (limits.CLEANUP_AGE_MIN, "1 hour or more, unless force is set")
    problems.span("older_than", request.older_than, low, limits.CLEANUP_AGE_MAX, rule + ", at most 10 years")
    problems.refuse()
    return span_from(request.older_than)


def forgotten(request: pb.EraseRequest) -> Forgotten:
    """Whose texts to erase. Raises InvalidField."""
    problems = Problems()
    given = [name for name in ("id", "source_id", "labels") if getattr(request, name)]
    if not given:
        problems.add("id", "must be given, or source_id, or labels")
    for name in given[1:]:
        problems.add(name, f"must not be given with {given[0]}; erase one after the other")
    if request.id:
        problems.job_id("id", request.id)
    problems.source_id("source_id", request.source_id)
    problems.labels("labels", request.labels)
    problems.refuse()
    return Forgotten(request.id, request.source_id, tuple(sorted(request.labels.items())))
