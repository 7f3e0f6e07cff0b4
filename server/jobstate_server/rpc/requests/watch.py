"""WatchEvents."""

from __future__ import annotations

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import limits
from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.reach import Reach
from jobstate_server.rpc.requests.problems import Problems
from jobstate_server.watch.requests import Watch
from jobstate_server.wire.times import span_from


def watch_events(request: pb.WatchEventsRequest, reach: Reach) -> Watch:
    """The watch in a WatchEvents; its cursor is checked later. Raises InvalidField."""
    problems = Problems()
    problems.values("job_ids", request.job_ids, limits.WATCHED_JOBS_MAX, problems.job_id)
    problems.values("job_types", request.job_types, limits.FILTER_VALUES_MAX, problems.job_type)
    problems.values("source_ids", request.source_ids, limits.FILTER_VALUES_MAX, problems.source_id)
    problems.known_values("types", request.types, event_pb2.EventType.values())
    if request.WhichOneof("position") == "cursor" and not request.cursor:
        problems.add("cursor", "must not be empty; leave it unset to begin at the end of the log")
    if request.start not in pb.WatchStart.values():
        problems.add("start", f"{request.start} is not a valid value of this enum")
    if request.progress not in pb.WatchProgress.values():
        problems.add("progress", f"{request.progress} is not a valid value of this enum")
    problems.labels("labels", request.labels)
    _combinations(request, problems)
    if request.snapshot and not (request.job_ids or request.source_ids or reach.lists_sources):
        problems.add("source_ids", "must be given for a snapshot: this caller sees only some sources")
    interval = limits.HEARTBEAT_DEFAULT
    if request.HasField("heartbeat_interval"):
        # A value outside the bounds is replaced by the nearest bound.
        problems.span("heartbeat_interval", request.heartbeat_interval, 0, 2**63, "0 or more")
        interval = min(max(span_from(request.heartbeat_interval), limits.HEARTBEAT_MIN), limits.HEARTBEAT_MAX)
    problems.refuse()
    return Watch(
        wanted=EventFilter(
            job_ids=frozenset(request.job_ids),
            job_types=frozenset(request.job_types),
            source_ids=frozenset(request.source_ids),
            types=frozenset(EventType(type_) for type_ in request.types),
            labels=tuple(sorted(request.labels.items())),
            reach=reach,
        ),
        cursor=request.cursor,
        earliest=request.start == pb.WATCH_START_EARLIEST,
        snapshot=request.snapshot,
        follow=request.follow if request.HasField("follow") else True,
        until_final=request.until_final,
        latest_progress=request.progress == pb.WATCH_PROGRESS_LATEST,
        heartbeat_interval=interval,
    )


def _combinations(request: pb.WatchEventsRequest, problems: Problems) -> None:
    """Check for fields that cannot be combined."""
    if request.snapshot and request.start == pb.WATCH_START_EARLIEST:
        problems.add("snapshot", "must not be given together with start = EARLIEST")
    if request.until_final and not request.job_ids:
        problems.add("until_final", "needs job_ids")
    if request.until_final and request.HasField("follow") and not request.follow:
        problems.add("until_final", "must not be given together with follow = false")
