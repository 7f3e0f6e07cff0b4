"""Get, List and GetStats."""

from __future__ import annotations

from typing import Literal, NamedTuple

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import limits
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.job import JobState
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.waiting import WaitReason
from jobstate_server.rpc.requests.page_token import decode_page_token
from jobstate_server.rpc.requests.problems import Problems
from jobstate_server.wire.times import time_from

_Time = Literal["create_time_from", "create_time_to", "complete_time_from", "complete_time_to"]
_TIMES: tuple[_Time, ...] = ("create_time_from", "create_time_to", "complete_time_from", "complete_time_to")
"""The bounds of times."""


class Page(NamedTuple):
    """The page that a List requests."""

    wanted: JobFilter
    order: Order
    after: Position | None
    """The position after which it begins. None for the first page."""
    limit: int
    """The maximum number of jobs on it."""


def get(request: pb.GetRequest) -> str:
    """The id that a Get names. Raises InvalidField."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.refuse()
    return request.id


def list_jobs(request: pb.ListRequest, reach: Reach, ahead: int) -> Page:
    """The page that a List requests.

    Args:
        ahead: by how much the store's time is ahead of the wall clock, which callers use.

    Raises:
        InvalidField: the request is not acceptable.
    """
    problems = Problems()
    wanted = job_filter(request, reach, ahead, problems)
    if request.page_size < 0:
        problems.add("page_size", f"is {request.page_size}, must not be negative")
    if request.order not in pb.ListOrder.values():
        problems.add("order", f"{request.order} is not a valid value of this enum")
    after = None
    try:
        after = decode_page_token(request)
    except InvalidField as refusal:
        problems.add(refusal.field, refusal.problem)
    problems.refuse()
    order = Order.OLDEST_FIRST if request.order == pb.LIST_ORDER_CREATE_TIME_ASC else Order.NEWEST_FIRST
    return Page(wanted, order, after, min(request.page_size or limits.PAGE_SIZE_DEFAULT, limits.PAGE_SIZE_MAX))


def job_filter(request: pb.ListRequest, reach: Reach, ahead: int, problems: Problems) -> JobFilter:
    """Which jobs a request is about. It is not valid if there are problems.

    Args:
        ahead: as for ``list_jobs``.
    """
    problems.known_values("states", request.states, job_pb2.JobState.values())
    problems.values("job_types", request.job_types, limits.FILTER_VALUES_MAX, problems.job_type)
    problems.source_id("source_id", request.source_id)
    if not request.source_id and not reach.lists_sources:
        problems.add("source_id", "must be given: this caller sees only some sources")
    for field in _TIMES:
        if request.HasField(field):
            problems.time(field, getattr(request, field))
    problems.known_values("wait_reasons", request.wait_reasons, job_pb2.WaitReason.values())
    _check_related(request, problems)
    problems.labels("labels", request.labels)
    problems.text("worker", request.worker, limits.WORKER_BYTES_MAX)
    problems.text("error_code", request.error_code, limits.ERROR_CODE_BYTES_MAX)
    if problems.are_any:
        return JobFilter(reach=reach)
    return JobFilter(
        states=tuple(sorted({JobState(state) for state in request.states})),
        job_types=tuple(sorted(set(request.job_types))),
        source_ids=(request.source_id,) if request.source_id else (),
        group_id=request.group_id,
        needed_by=request.needed_by,
        needs=request.needs,
        wait_reasons=tuple(sorted({WaitReason(reason) for reason in request.wait_reasons})),
        labels=tuple(sorted(request.labels.items())),
        worker=request.worker,
        error_code=request.error_code,
        reach=reach,
        create_time_from=_time(request, "create_time_from", ahead),
        create_time_to=_time(request, "create_time_to", ahead),
        complete_time_from=_time(request, "complete_time_from", ahead),
        complete_time_to=_time(request, "complete_time_to", ahead),
    )


def _time(request: pb.ListRequest, field: _Time, ahead: int) -> int | None:
    """One of the bounds of times, as a time of the store. None if it is not given."""
    return time_from(getattr(request, field)) + ahead if request.HasField(field) else None


def _check_related(request: pb.ListRequest, problems: Problems) -> None:
    """Check the fields that name a job to which those listed are related."""
    given = [field for field in ("group_id", "needed_by", "needs") if getattr(request, field)]
    for field in given:
        problems.job_id(field, getattr(request, field))
    for field in given[1:]:
        problems.add(field, f"cannot be combined with {given[0]}: a page follows one index")


def get_stats(request: pb.GetStatsRequest, reach: Reach) -> frozenset[str]:
    """The job types that a GetStats names; empty for all. Raises InvalidField."""
    problems = Problems()
    problems.values("job_types", request.job_types, limits.FILTER_VALUES_MAX, problems.job_type)
    if reach.source_ids is not None:
        problems.add("job_types", "statistics are stored by job type, and this caller sees only some sources")
    problems.refuse()
    return frozenset(request.job_types)
