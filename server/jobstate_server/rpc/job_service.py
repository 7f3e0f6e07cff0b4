"""``jobstate.v1.JobService``: each call is validated, converted, handed on, and its answer converted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.clock import Clock
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.statistics import TallyKey, statistics
from jobstate_server.engine.batch import Outcome
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.shared_read import SharedRead
from jobstate_server.engine.timekeeper import ahead_of_wall_clock
from jobstate_server.rpc import limits, validate
from jobstate_server.rpc.calls import Call, StreamCall
from jobstate_server.rpc.page_token import encode_page_token
from jobstate_server.rpc.update_stream import UpdateStreams
from jobstate_server.rpc.updates import command_of
from jobstate_server.store.base import Reader
from jobstate_server.watch.requests import Watch
from jobstate_server.watch.session import WatchSessions
from jobstate_server.wire import requests as convert
from jobstate_server.wire.framing import embed, length_tag
from jobstate_server.wire.job_ids import JobIds
from jobstate_server.wire.jobs import attempt_message, encode_job, encode_whole, job_type_message, with_version
from jobstate_server.wire.statistics import statistics_message
from jobstate_server.wire.times import span_from

_JOB = length_tag(pb.GetResponse.JOB_FIELD_NUMBER)
"""Every answer with one job has it in the same field."""

_JOBS = length_tag(pb.ListResponse.JOBS_FIELD_NUMBER)


class JobService:
    """The handlers. Calls that change a job go to the committer, the others to readers."""

    def __init__(
        self,
        committer: Committer,
        readers: Readers,
        watching: WatchSessions,
        job_types: JobTypes,
        clock: Clock,
    ) -> None:
        self._committer = committer
        self._readers = readers
        self._watching = watching
        self._job_types = job_types
        self._statistics = SharedRead(readers, lambda reader: _read_statistics(reader, ()))
        self._clock = clock
        self._new_id = JobIds(clock.now)
        self._update_streams = UpdateStreams(committer, self._new_id)

    def drain(self) -> None:
        """End the streams of updates: what has come is answered, no more is taken."""
        self._update_streams.drain()

    async def Create(self, request: pb.CreateRequest, call: Call) -> bytes:
        return await self._change("create", request, call)

    async def BatchCreate(self, request: pb.BatchCreateRequest, call: Call) -> bytes:
        validate.batch_create(request)
        command = convert.batch_create_command(request, call, self._new_id)
        outcome = await self._committer.submit(command, call.size)
        created = [pb.CreatedJob(id=job.id, version=job.version) for job in outcome.jobs]
        return pb.BatchCreateResponse(jobs=created).SerializeToString()

    async def Get(self, request: pb.GetRequest, call: Call) -> bytes:
        validate.get(request)
        job = await self._readers.get(request.id, call.sees)
        answer = embed(_JOB, encode_whole(job))
        if not request.include_attempts:
            return answer
        # An attempt that ended between the two reads is newer than the job as it is answered.
        through = job.attempt - (job.state is JobState.PROCESSING)
        attempts = await self._readers.run(
            lambda reader: reader.attempts(job.id, through, limits.ATTEMPTS_MAX, limits.RESPONSE_BYTES_MAX),
            is_short=True,
        )
        omitted = attempts[0].number - 1 if attempts else 0
        listed = pb.GetResponse(attempts=map(attempt_message, attempts), attempts_omitted=omitted)
        return answer + listed.SerializeToString()

    async def List(self, request: pb.ListRequest, call: Call) -> bytes:
        after = validate.list_jobs(request)
        limit = min(request.page_size or limits.PAGE_SIZE_DEFAULT, limits.PAGE_SIZE_MAX)
        wanted = convert.job_filter(request, call.sees, ahead_of_wall_clock(self._clock))
        order = convert.list_order(request)
        jobs, has_more = await self._readers.run(
            lambda reader: reader.list_jobs(wanted, order, after, limit, limits.RESPONSE_BYTES_MAX)
        )
        answer = b"".join(embed(_JOBS, encode_whole(job)) for job in jobs)
        if has_more:
            token = encode_page_token(request, Position(jobs[-1].create_time, jobs[-1].id))
            answer += pb.ListResponse(next_page_token=token).SerializeToString()
        return answer

    async def Start(self, request: pb.StartRequest, call: Call) -> bytes:
        return await self._change("start", request, call)

    async def UpdateProgress(self, request: pb.UpdateProgressRequest, call: Call) -> bytes:
        outcome = await self._submit("progress", request, call)
        job = outcome.jobs[0]
        # The event has just been encoded with exactly what this answer carries.
        encoded = outcome.encoded or encode_job(job, metadata=False, result=False)
        return embed(_JOB, with_version(encoded, job.version))

    async def Complete(self, request: pb.CompleteRequest, call: Call) -> bytes:
        return await self._change("complete", request, call)

    async def Fail(self, request: pb.FailRequest, call: Call) -> bytes:
        return await self._change("fail", request, call)

    async def ReportUsage(self, request: pb.ReportUsageRequest, call: Call) -> bytes:
        return await self._change("report_usage", request, call)

    async def Retry(self, request: pb.RetryRequest, call: Call) -> bytes:
        return await self._change("retry", request, call)

    async def Cancel(self, request: pb.CancelRequest, call: Call) -> bytes:
        return await self._change("cancel", request, call)

    def _submit(self, kind: str, request: Any, call: Call) -> asyncio.Future[Outcome]:
        return self._committer.submit(command_of(kind, request, call, self._new_id), call.size)

    async def _change(self, kind: str, request: Any, call: Call) -> bytes:
        outcome = await self._submit(kind, request, call)
        return embed(_JOB, encode_whole(outcome.jobs[0]))

    def StreamUpdates(self, requests: AsyncIterator[bytes], call: StreamCall) -> AsyncIterator[bytes]:
        return self._update_streams.answers(requests, call)

    async def WatchEvents(self, request: pb.WatchEventsRequest, call: StreamCall) -> AsyncIterator[bytes]:
        validate.watch_events(request)
        interval = limits.HEARTBEAT_DEFAULT
        if request.HasField("heartbeat_interval"):
            asked = span_from(request.heartbeat_interval)
            interval = min(max(asked, limits.HEARTBEAT_MIN), limits.HEARTBEAT_MAX)
        watch = Watch(
            wanted=convert.event_filter(request, call.sees),
            cursor=request.cursor,
            earliest=request.start == pb.WATCH_START_EARLIEST,
            snapshot=request.snapshot,
            follow=request.follow if request.HasField("follow") else True,
            until_final=request.until_final,
            latest_progress=request.progress == pb.WATCH_PROGRESS_LATEST,
            heartbeat_interval=interval,
        )
        # It may be large, and a watch lasts for days.
        del request
        async for response in self._watching.stream(watch, call.unread):
            yield response

    async def GetStats(self, request: pb.GetStatsRequest, _call: Call) -> bytes:
        validate.get_stats(request)
        if not request.job_types:
            return await self._statistics.get()
        job_types = set(request.job_types)
        return await self._readers.run(lambda reader: _read_statistics(reader, job_types))

    async def ListJobTypes(self, _request: pb.ListJobTypesRequest, _call: Call) -> bytes:
        types = [job_type_message(job_type) for job_type in self._job_types.all()]
        return pb.ListJobTypesResponse(job_types=types, strict_job_types=self._job_types.strict).SerializeToString()


def _read_statistics(reader: Reader, job_types: Collection[str]) -> bytes:
    """The encoded sums of each type that ever had a job, and of all together."""
    by_type: dict[str, list[tuple[TallyKey, int]]] = {}
    for item in reader.tallies(job_types).items():
        by_type.setdefault(item[0][0], []).append(item)
    answer = pb.GetStatsResponse()
    oldest: list[int] = []
    for job_type in sorted(by_type):
        sums = statistics(job_type, by_type[job_type])
        queued = reader.oldest_queued(job_type) if sums.stored[JobState.QUEUED] else None
        if queued is not None:
            oldest.append(queued)
        answer.job_types.append(statistics_message(sums, queued))
    everything = statistics("", (item for items in by_type.values() for item in items))
    answer.total.CopyFrom(statistics_message(everything, min(oldest, default=None)))
    return answer.SerializeToString()
