"""``jobstate.v1.DispatchService``: pauses, lanes, and why a job is not handed out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jobstate.v1 import dispatch_service_pb2 as pb
from jobstate_server.clock import Clock
from jobstate_server.domain import commands as c
from jobstate_server.domain.errors import JobNotFound
from jobstate_server.domain.job import Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.limits import EXPLAINED_NEEDS_MAX
from jobstate_server.domain.needs import Need
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.turns import Limits
from jobstate_server.domain.waiting import is_ready
from jobstate_server.engine.acquires import Acquires
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import PauseOutcome
from jobstate_server.engine.readers import Readers
from jobstate_server.rpc import holds
from jobstate_server.rpc.call import Call
from jobstate_server.rpc.lane_pages import lane_page
from jobstate_server.rpc.requests import dispatch
from jobstate_server.store.base import Reader
from jobstate_server.wire.times import set_time

AHEAD_COUNTED_MAX = 10_000
"""Jobs and lanes before a job are counted up to this number: some milliseconds. More would not change what an operator
does."""


class _Found(NamedTuple):
    """A job, and what it waits behind. None if it is not ready."""

    job: Job
    place: holds.Place | None
    needs: Sequence[Need] = ()
    """Some of the needs that are not met yet."""
    stopping_group: str = ""
    """The nearest group around the job that is stopping."""


class DispatchService:
    """The handlers."""

    def __init__(
        self, committer: Committer, readers: Readers, acquires: Acquires, job_types: JobTypes, clock: Clock
    ) -> None:
        self._committer = committer
        self._readers = readers
        self._acquires = acquires
        self._job_types = job_types
        self._clock = clock

    async def Pause(self, request: pb.PauseRequest, call: Call) -> bytes:
        outcome = await self._submit(dispatch.pause(request, call.caller), call)
        return pb.PauseResponse(ready=outcome.ready, running=outcome.running, head=outcome.head).SerializeToString()

    async def Unpause(self, request: pb.UnpauseRequest, call: Call) -> bytes:
        outcome = await self._submit(dispatch.unpause(request, call.caller), call)
        return pb.UnpauseResponse(ready=outcome.ready, head=outcome.head).SerializeToString()

    async def _submit(self, command: c.Pause, call: Call) -> PauseOutcome:
        outcome = await self._committer.submit(command, call.size, call.connection)
        assert isinstance(outcome, PauseOutcome)
        return outcome

    async def Explain(self, request: pb.ExplainRequest, call: Call) -> bytes:
        job_id, reach = dispatch.explain(request), call.caller.reach
        job, place, needs, group_id = await self._readers.run(lambda reader: self._read(reader, job_id, reach))
        now = self._clock.now()
        answer = pb.ExplainResponse(waiting_acquires=self._acquires.waiting(job.job_type))
        holds.add_own(answer, job, now)
        holds.add_needs(answer, needs)
        if group_id:
            holds.add_group(answer, group_id)
        if place is not None:
            holds.add_shared(answer, job, place, Limits(self._job_types.policy(job.job_type)), now)
            answer.ahead_in_lane, answer.lanes_ahead = place.jobs_ahead, place.lanes_ahead
            # Each lane before it has a turn, and so it has for each job of its own.
            jobs = (place.jobs_ahead + 1) * (place.lanes_ahead + 1)
            wait = self._acquires.rates.time_for(jobs, job.job_type, now)
            earliest = holds.earliest(answer, now)
            if wait is not None and earliest is not None:
                set_time(answer.expected_start_time, max(earliest, now + wait))
        return answer.SerializeToString()

    def _read(self, reader: Reader, job_id: str, reach: Reach) -> _Found:
        job = reader.jobs((job_id,), reach).get(job_id)
        if job is None:
            raise JobNotFound(job_id)
        group_id = "" if job.state.is_final else _stopping_group(reader, job)
        if not is_ready(job):
            open_needs = _open_needs(reader, job) if job.held and job.open_needs else ()
            return _Found(job, None, open_needs, group_id)
        policy = self._job_types.policy(job.job_type)
        limits = Limits(policy)
        of_type, lane = reader.type_record(job.job_type), reader.lane_record(job.job_type, job.lane)
        if not job.lane:
            lane.state.counts = of_type.state.lanes[""].counts
        lanes_ahead = 0
        if of_type.state.is_stored:
            key, is_empty_before = limits.key(lane.state), False
            if job.lane:
                empty = reader.lane_record(job.job_type, "").state
                empty.counts = of_type.state.lanes[""].counts
                is_empty_before = empty.counts.ready > 0 and not empty.paused and limits.key(empty) < key
            counted = reader.lanes_before(job.job_type, key, AHEAD_COUNTED_MAX, holds_jobs=policy.holds_jobs)
            lanes_ahead = min(AHEAD_COUNTED_MAX, counted + is_empty_before)
        jobs_ahead = reader.ready_before(job, policy.priority_step, AHEAD_COUNTED_MAX)
        return _Found(job, holds.Place(of_type, lane, jobs_ahead, lanes_ahead), stopping_group=group_id)

    async def ListLanes(self, request: pb.ListLanesRequest, call: Call) -> bytes:
        wanted = dispatch.list_lanes(request, call.caller)
        limits = Limits(self._job_types.policy(wanted.job_type))
        now = self._clock.now()
        return await self._readers.run(lambda reader: lane_page(reader, wanted, limits, now).SerializeToString())


def _open_needs(reader: Reader, job: Job) -> Sequence[Need]:
    open_needs = [need for need, outcome in reader.needs(job) if outcome is None]
    return open_needs[:EXPLAINED_NEEDS_MAX]


def _stopping_group(reader: Reader, job: Job) -> str:
    """The id of the nearest group around a job that is stopping. Empty if there is none."""
    key = job.group_key
    while key is not None:
        found = reader.groups([key]).get(key)
        if found is None or found.group.stopping:
            return "" if found is None else found.group_id
        key = found.parent_key
    return ""
