"""``jobstate.v1.JobService``: validates and converts each request, carries it out, and converts the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.clock import Clock
from jobstate_server.domain import commands as c
from jobstate_server.domain import limits
from jobstate_server.domain.bulk import BulkChange
from jobstate_server.domain.commands import Command
from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.domain.statistics import TallyKey, statistics
from jobstate_server.domain.waiting import WaitReason
from jobstate_server.engine.acquires import Acquires
from jobstate_server.engine.bulk_runs import BulkRuns
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import Outcome
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.shared_read import SharedRead
from jobstate_server.engine.timekeeper import ahead_of_wall_clock
from jobstate_server.rpc.call import Call, StreamCall
from jobstate_server.rpc.loop_turns import LoopTurns
from jobstate_server.rpc.requests import attempts, bulk, create, dispatch, lifecycle, reads
from jobstate_server.rpc.requests.page_token import encode_page_token
from jobstate_server.rpc.requests.watch import watch_events
from jobstate_server.rpc.update_stream import UpdateStreams
from jobstate_server.store.base import Reader
from jobstate_server.watch.session import WatchSessions
from jobstate_server.wire.framing import embed, length_tag
from jobstate_server.wire.job_ids import JobIds
from jobstate_server.wire.jobs import (
    attempt_message,
    encode_job,
    encode_whole,
    job_type_message,
    need_message,
    with_names,
    with_version,
)
from jobstate_server.wire.statistics import statistics_message

_JOB = length_tag(pb.GetResponse.JOB_FIELD_NUMBER)
"""Every answer with one job has it in the same field."""

_JOBS = length_tag(pb.ListResponse.JOBS_FIELD_NUMBER)

_ACQUIRED = length_tag(pb.AcquireResponse.JOBS_FIELD_NUMBER)

MANY_IDS = 100
"""A watch that names as many jobs is checked in a turn of the event loop of its own. 1,000 take half a millisecond."""

_EXISTING = pb.CreateResponse(existing=True).SerializeToString()


class JobService:
    """The handlers. Calls that change a job go to the committer, the others to readers."""

    def __init__(
        self,
        committer: Committer,
        readers: Readers,
        watching: WatchSessions,
        job_types: JobTypes,
        clock: Clock,
        acquires: Acquires,
    ) -> None:
        self._committer = committer
        self._acquires = acquires
        self._readers = readers
        self._watching = watching
        self._job_types = job_types
        self._statistics = SharedRead(readers, lambda reader: _read_statistics(reader, ()))
        self._clock = clock
        self._new_id = JobIds(clock.now)
        self._turns = LoopTurns()
        self.bulk_runs = BulkRuns(committer, readers, clock)
        self._update_streams = UpdateStreams(committer, self._new_id, acquires, turns=self._turns)

    def drain(self) -> None:
        """End the waits of Acquire, the calls of bulk runs and the StreamUpdates streams: batches that were read are
        answered, and no more are read."""
        self._acquires.drain()
        self._update_streams.drain()
        self.bulk_runs.drain()

    # Calls that change a job do not hold their request while they wait, because it takes as much memory as the command.

    def Create(self, request: pb.CreateRequest, call: Call) -> Awaitable[bytes]:
        command = create.create(request, call.caller, self._new_id)
        return self._create(create.by_store_time(command, ahead_of_wall_clock(self._clock)), call)

    async def _create(self, command: Command, call: Call) -> bytes:
        outcome = await self._committer.submit(command, call.size, call.connection)
        job = outcome.jobs[0]
        if outcome.encoded is None or job.version != job.create_sequence:
            answer = _encode_answer(outcome, call)
        else:
            # The event was just encoded with the same fields as this answer.
            answer = embed(_JOB, with_version(with_names(outcome.encoded, job, is_new=True), job.version))
        return answer + _EXISTING if outcome.existing else answer

    def BatchCreate(self, request: pb.BatchCreateRequest, call: Call) -> Awaitable[bytes]:
        return self._create_batch(request, call)

    async def _create_batch(self, request: pb.BatchCreateRequest, call: Call) -> bytes:
        command = await create.batch_create(request, call.caller, self._new_id, self._turns.take)
        del request
        command = create.batch_by_store_time(command, ahead_of_wall_clock(self._clock))
        outcome = await self._committer.submit(command, call.size, call.connection)
        created = [pb.CreatedJob(id=job.id, version=job.version) for job in outcome.jobs]
        for job, existing in zip(created, outcome.existing, strict=False):
            job.existing = existing
        return pb.BatchCreateResponse(jobs=created).SerializeToString()

    async def Get(self, request: pb.GetRequest, call: Call) -> bytes:
        job, group = await self._readers.get(reads.get(request), call.caller.reach)
        answer = embed(_JOB, _encode_whole(job, group, call))
        if request.include_needs and job.needs_count:
            needs = await self._readers.run(lambda reader: reader.needs(job), is_short=True)
            answer += pb.GetResponse(needs=[need_message(*need) for need in needs]).SerializeToString()
        if not request.include_attempts:
            return answer
        # An attempt that ended between the two reads is newer than the job in the answer.
        through = job.attempt - (job.state is JobState.PROCESSING)
        listed = await self._readers.run(
            lambda reader: reader.attempts(job.id, through, limits.ATTEMPTS_MAX, limits.RESPONSE_BYTES_MAX),
            is_short=True,
        )
        omitted = listed[0].number - 1 if listed else 0
        rest = pb.GetResponse(attempts=map(attempt_message, listed), attempts_omitted=omitted)
        return answer + rest.SerializeToString()

    async def List(self, request: pb.ListRequest, call: Call) -> bytes:
        page = reads.list_jobs(request, call.caller.reach, ahead_of_wall_clock(self._clock))
        found = await self._readers.run(lambda reader: reader.list_jobs(*page, limits.RESPONSE_BYTES_MAX))
        jobs, resume, groups = found
        answer = b"".join(embed(_JOBS, _encode_whole(job, groups.get(job.id), call)) for job in jobs)
        if resume is not None:
            token = encode_page_token(request, resume)
            answer += pb.ListResponse(next_page_token=token).SerializeToString()
        return answer

    def Start(self, request: pb.StartRequest, call: Call) -> Awaitable[bytes]:
        return self._change(attempts.start(request, call.caller, self._new_id), call)

    def Acquire(self, request: pb.AcquireRequest, call: Call) -> Awaitable[bytes]:
        return self._acquire(*dispatch.acquire(request, call.caller), call)

    async def _acquire(self, command: c.Acquire, wait: int, call: Call) -> bytes:
        jobs = await self._acquires.acquire(command, call.size, wait, call.connection)
        return b"".join([embed(_ACQUIRED, encode_whole(job)) for job in jobs])

    def Release(self, request: pb.ReleaseRequest, call: Call) -> Awaitable[bytes]:
        return self._change(dispatch.release(request, call.caller, self._new_id), call)

    def UpdateProgress(self, request: pb.UpdateProgressRequest, call: Call) -> Awaitable[bytes]:
        return self._report_progress(attempts.update_progress(request, call.caller, self._new_id), call)

    async def _report_progress(self, command: Command, call: Call) -> bytes:
        outcome = await self._committer.submit(command, call.size, call.connection)
        job = outcome.jobs[0]
        if outcome.encoded is None:
            encoded = encode_job(job, metadata=False, result=False)
        else:
            encoded = with_names(outcome.encoded, job)
        return embed(_JOB, with_version(encoded, job.version))

    def Complete(self, request: pb.CompleteRequest, call: Call) -> Awaitable[bytes]:
        return self._change(attempts.complete(request, call.caller, self._new_id), call)

    def Fail(self, request: pb.FailRequest, call: Call) -> Awaitable[bytes]:
        return self._change(attempts.fail(request, call.caller, self._new_id), call)

    def ReportUsage(self, request: pb.ReportUsageRequest, call: Call) -> Awaitable[bytes]:
        return self._change(attempts.report_usage(request, call.caller, self._new_id), call)

    def Retry(self, request: pb.RetryRequest, call: Call) -> Awaitable[bytes]:
        return self._change(lifecycle.retry(request, call.caller, self._new_id), call)

    def Cancel(self, request: pb.CancelRequest, call: Call) -> Awaitable[bytes]:
        return self._change(lifecycle.cancel(request, call.caller, self._new_id), call)

    def Recreate(self, request: pb.RecreateRequest, call: Call) -> Awaitable[bytes]:
        return self._create(lifecycle.recreate(request, call.caller, self._new_id), call)

    async def RecreateMany(self, request: pb.RecreateManyRequest, call: Call) -> bytes:
        ahead = ahead_of_wall_clock(self._clock)
        progress = await self._change_many(bulk.recreate_many(request, call.caller, self._new_id, ahead), call)
        return pb.RecreateManyResponse(progress=progress).SerializeToString()

    async def RetryMany(self, request: pb.RetryManyRequest, call: Call) -> bytes:
        change = bulk.retry_many(request, call.caller, ahead_of_wall_clock(self._clock))
        return pb.RetryManyResponse(progress=await self._change_many(change, call)).SerializeToString()

    async def CancelMany(self, request: pb.CancelManyRequest, call: Call) -> bytes:
        change = bulk.cancel_many(request, call.caller, ahead_of_wall_clock(self._clock))
        return pb.CancelManyResponse(progress=await self._change_many(change, call)).SerializeToString()

    async def _change_many(self, change: BulkChange, call: Call) -> pb.BulkProgress:
        if change.request is None:
            answer = await self.bulk_runs.count(change)
        else:
            answer = await self.bulk_runs.run(change, call.size, call.connection)
        progress = answer.progress
        return pb.BulkProgress(
            matched=progress.matched,
            done=progress.done,
            skipped=[
                pb.SkippedJobs(reason=pb.SkipReason.ValueType(reason), count=count)
                for reason, count in progress.skipped.items()
            ],
            more=answer.more,
            limit_reached=answer.limit_reached,
            job_ids=answer.job_ids,
        )

    async def _change(self, command: Command, call: Call) -> bytes:
        outcome = await self._committer.submit(command, call.size, call.connection)
        return _encode_answer(outcome, call)

    def CloseGroup(self, request: pb.CloseGroupRequest, call: Call) -> Awaitable[bytes]:
        return self._change(lifecycle.close_group(request, call.caller), call)

    def StreamUpdates(self, requests: AsyncIterator[bytes], call: StreamCall) -> AsyncIterator[bytes]:
        return self._update_streams.answers(requests, call)

    async def WatchEvents(self, request: pb.WatchEventsRequest, call: StreamCall) -> AsyncIterator[bytes]:
        if len(request.job_ids) >= MANY_IDS:
            await self._turns.take()
        watch = watch_events(request, call.caller.reach)
        # It may be large, and a watch lasts for days.
        del request
        async for response in self._watching.stream(watch, call.unread):
            yield response

    async def GetStats(self, request: pb.GetStatsRequest, call: Call) -> bytes:
        reach = call.caller.reach
        job_types = reads.get_stats(request, reach)
        if not job_types and reach is EVERYTHING:
            return await self._statistics.get()
        return await self._readers.run(lambda reader: _read_statistics(reader, job_types, reach))

    async def ListJobTypes(self, _request: pb.ListJobTypesRequest, _call: Call) -> bytes:
        types = [job_type_message(job_type) for job_type in self._job_types.all()]
        return pb.ListJobTypesResponse(job_types=types, strict_job_types=self._job_types.strict).SerializeToString()


def _encode_answer(outcome: Outcome, call: Call) -> bytes:
    """The answer with the one job of an outcome."""
    job = outcome.jobs[0]
    group = None if outcome.groups is None else outcome.groups.get(job.id)
    return embed(_JOB, _encode_whole(job, group, call))


def _encode_whole(job: Job, group: Group | None, call: Call) -> bytes:
    """The job, with the counts of a group if the caller may see them."""
    return encode_whole(job, group if call.caller.reach.sees_members else None)


def _read_statistics(reader: Reader, job_types: Collection[str], reach: Reach = EVERYTHING) -> bytes:
    """The encoded statistics of each type within reach that ever had a job, and of all types together."""
    by_type: dict[str, list[tuple[TallyKey, int]]] = {}
    for item in reader.tallies(job_types).items():
        if reach.admits_type(item[0][0]):
            by_type.setdefault(item[0][0], []).append(item)
    answer = pb.GetStatsResponse()
    oldest: list[int] = []
    oldest_ready: list[int] = []
    for job_type in sorted(by_type):
        sums = statistics(job_type, by_type[job_type])
        queued = reader.oldest_queued(job_type) if sums.stored[JobState.QUEUED] else None
        if queued is not None:
            oldest.append(queued)
        ready = reader.oldest_ready(job_type) if sums.waiting[WaitReason.TURN] else None
        if ready is not None:
            oldest_ready.append(ready)
        answer.job_types.append(statistics_message(sums, queued, ready))
    everything = statistics("", (item for items in by_type.values() for item in items))
    total = statistics_message(everything, min(oldest, default=None), min(oldest_ready, default=None))
    answer.total.CopyFrom(total)
    return answer.SerializeToString()
