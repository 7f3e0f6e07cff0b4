"""``jobstate.v1.DispatchService``: why a job is not handed out."""

from __future__ import annotations

from typing import NamedTuple

from jobstate.v1 import dispatch_service_pb2 as pb
from jobstate_server.clock import Clock
from jobstate_server.domain.errors import JobNotFound
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.waiting import is_ready
from jobstate_server.engine.acquires import Acquires
from jobstate_server.engine.readers import Readers
from jobstate_server.rpc.call import Call
from jobstate_server.rpc.requests.dispatch import explain
from jobstate_server.store.base import Reader
from jobstate_server.wire.times import set_time

AHEAD_COUNTED_MAX = 10_000
"""Jobs before another are counted up to this number: some milliseconds. More would not change what an operator does."""

Reason = pb.HoldReason


class _Found(NamedTuple):
    """A job, and how many come before it. None if it is not ready."""

    job: Job
    ahead: int | None


class DispatchService:
    """The handlers."""

    def __init__(self, readers: Readers, acquires: Acquires, job_types: JobTypes, clock: Clock) -> None:
        self._readers = readers
        self._acquires = acquires
        self._job_types = job_types
        self._clock = clock

    async def Explain(self, request: pb.ExplainRequest, call: Call) -> bytes:
        job_id, reach = explain(request), call.caller.reach
        job, ahead = await self._readers.run(lambda reader: self._read(reader, job_id, reach))
        answer = pb.ExplainResponse(waiting_acquires=self._acquires.waiting(job.job_type))
        _add_holds(answer, job, ahead or 0)
        if ahead is not None:
            answer.ahead_in_lane = ahead
            now = self._clock.now()
            wait = self._acquires.rates.time_for(ahead + 1, job.job_type, now)
            if wait is not None:
                set_time(answer.expected_start_time, now + wait)
        return answer.SerializeToString()

    def _read(self, reader: Reader, job_id: str, reach: Reach) -> _Found:
        job = reader.jobs((job_id,), reach).get(job_id)
        if job is None:
            raise JobNotFound(job_id)
        if not is_ready(job):
            return _Found(job, None)
        step = self._job_types.policy(job.job_type).priority_step
        return _Found(job, reader.ready_before(job, step, AHEAD_COUNTED_MAX))


def _add_holds(answer: pb.ExplainResponse, job: Job, ahead: int) -> None:
    """What holds the job back. The reasons of a ready job end when a worker asks, so their end is not known."""
    until = job.next_retry_time if job.state is JobState.RETRYING else job.ready_time if job.held else None
    if until is not None:
        what = "its next attempt" if job.state is JobState.RETRYING else "the end of its delay"
        hold = answer.holds.add(reason=Reason.HOLD_REASON_TIME, text=f"it waits for {what}")
        set_time(hold.end_time, until)
    if job.state is JobState.FAILED:
        text = "it failed, and its type does not retry by itself: call Retry or Cancel"
        answer.holds.add(reason=Reason.HOLD_REASON_AWAITS_RETRY_CALL, text=text)
    if not is_ready(job):
        return
    if ahead:
        are = "1 job comes" if ahead == 1 else f"{ahead:,} jobs come"
        answer.holds.add(reason=Reason.HOLD_REASON_TURN, text=f"{are} before it")
    if not answer.waiting_acquires:
        text = f"no worker is waiting for jobs of type {job.job_type} at this server"
        answer.holds.add(reason=Reason.HOLD_REASON_NO_WORKER, text=text)
