"""The workers of the demo: each takes one job through what the scene has in store for it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc
from jobstate_client.demo.board import Overview, phase, state_name
from jobstate_client.demo.scene import Act, Attempt, Ending
from jobstate_client.views.phase import Phase

STEP_PERCENT = 5


class NotAsTold(Exception):
    """Something came out otherwise than it should. The message says what."""


class Worker:
    """Creates a job and works on it until it is final."""

    def __init__(self, channel: grpc.aio.Channel, board: Overview, act: Act) -> None:
        self._jobs = rpc.JobServiceStub(channel)
        self._board = board
        self._act = act
        self._name = f"worker-{act.job_id.rpartition('-')[2]}"

    async def run(self) -> None:
        """The whole life of the job.

        Raises:
            NotAsTold: the server answered something that it should not have.
        """
        act = self._act
        await asyncio.sleep(act.starts_after)
        await self._create()
        for number, attempt in enumerate(act.attempts, start=1):
            await self._start(number)
            if number > 1 and act.attempts[number - 2].ending is Ending.FALLS_SILENT:
                await self._report_too_late(number - 1)
            await self._work(number, attempt)
            await self._end(number, attempt)
        await self._board.until(act.job_id, lambda job: phase(job) is Phase.ENDED)

    async def _create(self) -> None:
        act = self._act
        request = pb.CreateRequest(
            id=act.job_id, job_type=act.job_type, source_id=act.source_id, request_id=_request_id()
        )
        request.metadata.update({"language": "en", "requested_by": "demo"})
        if act.max_retries is not None:
            request.max_retries = act.max_retries
        await self._jobs.Create(request)

    async def _start(self, number: int) -> None:
        if number > 1:
            # The server resumes a job by itself when its wait is over; the watch tells that it did.
            await self._board.until(self._act.job_id, lambda job: job.attempt == number)
        await asyncio.sleep(0.4)
        request = pb.StartRequest(id=self._act.job_id, worker=self._name, request_id=_request_id())
        job = (await self._jobs.Start(request)).job
        if job.attempt != number:
            raise NotAsTold(f"{job.id}: Start gave attempt {job.attempt} instead of {number}")

    async def _work(self, number: int, attempt: Attempt) -> None:
        # Complete itself makes the progress 100.
        steps = range(STEP_PERCENT, min(attempt.until, 99) + 1, STEP_PERCENT)
        for percent in steps:
            await asyncio.sleep(attempt.seconds / len(steps))
            says = self._act.says[min(percent * len(self._act.says) // 100, len(self._act.says) - 1)]
            await self._jobs.UpdateProgress(self._report(number, percent, says))

    def _report(self, number: int, percent: int, says: str) -> pb.UpdateProgressRequest:
        # A total of the attempt so far, so that a report sent twice counts once.
        usage = job_pb2.Usage(tokens=percent * 40, cost=percent * 0.0004)
        return pb.UpdateProgressRequest(
            id=self._act.job_id, attempt=number, progress=percent, message=says, usage=usage
        )

    async def _end(self, number: int, attempt: Attempt) -> None:
        job_id = self._act.job_id
        match attempt.ending:
            case Ending.COMPLETES:
                request = pb.CompleteRequest(id=job_id, attempt=number, result_count=12, request_id=_request_id())
                await self._jobs.Complete(request)
            case Ending.FAILS:
                error = pb.FailureReport(code=attempt.code, message=attempt.message)
                await self._jobs.Fail(pb.FailRequest(id=job_id, attempt=number, error=error, request_id=_request_id()))
            case Ending.FALLS_SILENT:
                await self._board.until(job_id, lambda job: job.state != job_pb2.JOB_STATE_PROCESSING)
            case Ending.IS_CANCELLED:
                await self._jobs.Cancel(pb.CancelRequest(id=job_id, reason=attempt.message, request_id=_request_id()))
                report = self._jobs.UpdateProgress(self._report(number, attempt.until, "working"))
                await self._must_be_refused(report, "TRANSITION_NOT_ALLOWED")

    async def _report_too_late(self, number: int) -> None:
        """The worker of an attempt that timed out comes back. It must not speak for its successor."""
        refused = self._jobs.Complete(pb.CompleteRequest(id=self._act.job_id, attempt=number))
        await self._must_be_refused(refused, "ATTEMPT_SUPERSEDED")
        self._board.notes[self._act.job_id] = f"late worker of attempt {number} refused"

    async def _must_be_refused(self, call: Awaitable[object], reason: str) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            told = reason_of(error)
        else:
            told = "nothing"
        if told != reason:
            job = self._board.jobs[self._act.job_id]
            raise NotAsTold(f"{job.id} ({state_name(job.state)}): a call was answered {told} instead of {reason}")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason that the server gives for refusing a call; the gRPC code's name when it gives none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    for packed in status.details if status is not None else ():
        if packed.Unpack(info):
            return str(info.reason)
    return error.code().name


def _request_id() -> str:
    """A new one for each call: a call that has to be repeated then does nothing twice."""
    return str(uuid.uuid4())
