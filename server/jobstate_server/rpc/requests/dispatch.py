"""The requests of dispatch: Acquire, Release and Explain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain import limits
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.limits import ACQUIRE_WAIT_MAX, HOLD_LANE_MAX, LEASE_MAX, LEASE_MIN, RETRY_DELAY_MAX
from jobstate_server.rpc.requests.attempts import attempt_and_usage
from jobstate_server.rpc.requests.keys import NewId, request_key
from jobstate_server.rpc.requests.problems import Problems
from jobstate_server.wire.times import span_from


def acquire(request: pb.AcquireRequest, caller: Caller) -> tuple[c.Acquire, int]:
    """The command in an Acquire, and how long it may wait. Raises InvalidField."""
    problems = Problems()
    wait = 0
    if request.HasField("wait"):
        problems.span("wait", request.wait, 0, ACQUIRE_WAIT_MAX, "0 to 60 seconds")
        wait = span_from(request.wait)
    return _acquire(request, caller, problems, limits.RESPONSE_BYTES_MAX), wait


class StreamAcquires:
    """The acquires in one batch of a stream. They never wait, and together they are no larger than one call."""

    def __init__(self, updates: Iterable[object], caller: Caller) -> None:
        """``updates``: those of the batch. They are counted only if they can be iterated more than once."""
        self.count = 0
        self._updates = updates
        self._caller = caller
        self._jobs = 0
        self._bytes_max = 0

    def command(self, request: pb.AcquireRequest) -> c.Acquire:
        """The command in the next acquire. Raises InvalidField."""
        if not self.count:
            self._bytes_max = limits.RESPONSE_BYTES_MAX // self._expected()
        problems = Problems()
        if request.HasField("wait"):
            problems.add("wait", "must not be set in StreamUpdates, where an acquire does not wait")
        self.count += 1
        self._jobs += max(1, request.max_jobs)
        if self.count > limits.ACQUIRES_OF_BATCH_MAX:
            problems.add("acquire", f"comes more than {limits.ACQUIRES_OF_BATCH_MAX} times in a batch")
        elif self._jobs > limits.ACQUIRED_MAX:
            problems.add("max_jobs", f"is more than {limits.ACQUIRED_MAX:,} in all acquires of a batch together")
        return _acquire(request, self._caller, problems, self._bytes_max)

    def _expected(self) -> int:
        """How many acquires may share the answer."""
        if not isinstance(self._updates, Sequence):
            return limits.ACQUIRES_OF_BATCH_MAX
        count = sum(isinstance(update, pb.JobUpdate) and update.HasField("acquire") for update in self._updates)
        return min(count, limits.ACQUIRES_OF_BATCH_MAX)


def _acquire(request: pb.AcquireRequest, caller: Caller, problems: Problems, bytes_max: int) -> c.Acquire:
    count = len(request.job_types)
    if problems.count("job_types", count, limits.FILTER_VALUES_MAX, low=1):
        for index, name in enumerate(request.job_types):
            problems.job_type(f"job_types[{index}]", name)
    problems.within("max_jobs", request.max_jobs, 0, limits.ACQUIRED_MAX)
    lease = None
    if request.HasField("lease"):
        problems.span("lease", request.lease, LEASE_MIN, LEASE_MAX, "5 seconds to 1 hour")
        lease = span_from(request.lease)
    problems.text("worker", request.worker, limits.WORKER_BYTES_MAX)
    problems.request_id(request.request_id)
    problems.refuse()
    return c.Acquire(
        caller=caller,
        job_types=tuple(dict.fromkeys(request.job_types)),
        max_jobs=request.max_jobs or 1,
        bytes_max=bytes_max,
        lease=lease,
        worker=request.worker,
        request=request_key(caller, "Acquire", _without_wait(request), request.request_id),
    )


def _without_wait(request: pb.AcquireRequest) -> pb.AcquireRequest:
    """What makes a repeat the same call. It may wait for another time: a worker that stops repeats without a wait."""
    if not request.HasField("wait"):
        return request
    same = pb.AcquireRequest()
    same.CopyFrom(request)
    same.ClearField("wait")
    return same


def release(request: pb.ReleaseRequest, caller: Caller, _new_id: NewId) -> c.Release:
    """The command in a Release. Raises InvalidField."""
    problems = Problems()
    attempt, usage = attempt_and_usage(request, problems)
    problems.text("reason", request.reason, limits.TEXT_BYTES_MAX)
    delay = 0
    if request.HasField("delay"):
        problems.span("delay", request.delay, 0, RETRY_DELAY_MAX, "0 to 7 days")
        delay = span_from(request.delay)
    hold_lane = 0
    if request.HasField("hold_lane"):
        problems.span("hold_lane", request.hold_lane, 0, HOLD_LANE_MAX, "0 to 1 hour")
        hold_lane = span_from(request.hold_lane)
    problems.request_id(request.request_id)
    problems.refuse()
    return c.Release(
        job_id=request.id,
        caller=caller,
        request=request_key(caller, "Release", request, request.request_id),
        attempt=attempt,
        usage=usage,
        reason=request.reason,
        delay=delay,
        hold_lane=hold_lane,
    )


def pause(request: dispatch_pb.PauseRequest, caller: Caller) -> c.Pause:
    """The command in a Pause. Raises InvalidField."""
    problems = Problems()
    problems.text("reason", request.reason, limits.TEXT_BYTES_MAX)
    lane = _type_and_lane(request, problems)
    return c.Pause(request.job_type, lane, paused=True, reason=request.reason, caller=caller)


def unpause(request: dispatch_pb.UnpauseRequest, caller: Caller) -> c.Pause:
    """The command in an Unpause. Raises InvalidField."""
    return c.Pause(request.job_type, _type_and_lane(request, Problems()), paused=False, caller=caller)


def _type_and_lane(request: dispatch_pb.PauseRequest | dispatch_pb.UnpauseRequest, problems: Problems) -> str | None:
    """The lane, after both have been checked. Raises InvalidField."""
    problems.job_type("job_type", request.job_type)
    problems.text("lane", request.lane, limits.LANE_BYTES_MAX)
    problems.refuse()
    return request.lane if request.HasField("lane") else None


class LanesWanted(NamedTuple):
    """What a ListLanes asks for."""

    job_type: str
    limit: int
    page_token: str


def list_lanes(request: dispatch_pb.ListLanesRequest, caller: Caller) -> LanesWanted:
    """What a ListLanes asks for. Raises InvalidField."""
    problems = Problems()
    problems.job_type("job_type", request.job_type)
    if request.page_size < 0:
        problems.add("page_size", f"is {request.page_size}, must not be negative")
    problems.refuse()
    if not caller.reach.admits_type(request.job_type):
        raise InvalidField("job_type", f"{request.job_type!r} is not a type that this caller may use")
    limit = min(request.page_size or limits.PAGE_SIZE_DEFAULT, limits.PAGE_SIZE_MAX)
    return LanesWanted(request.job_type, limit, request.page_token)


def explain(request: dispatch_pb.ExplainRequest) -> str:
    """The id of the job to explain. Raises InvalidField."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.refuse()
    return request.id
