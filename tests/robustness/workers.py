"""Workers of a run, who ask for work with Acquire, and producers, who make the work for them.

Workers finish jobs, fail them, give them back, fall silent, come back too late, and go away while they wait.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import span, struct
from ..support.waiting import pause
from .clients import CALL_TIMEOUT_S, MOVES, REPEATED, Client, Shared, Stubs, note_outcome
from .history import ANSWERED, REFUSED, UNKNOWN, Acquiring, Answer, Call
from .keys import UNTIL_STARTED
from .recording import ending_of
from .server_process import JOB_TYPES, LANED, RELEASES_MAX

LEASES_S = (0.4, 1.0, 2.0)
"""How long workers may be silent: short, so that some are."""

WAITS_S = (0.0, 0.0, 0.1, 0.5, 2.0, 6.0)
"""How long they wait for work."""

SHORT_WAITS_S = (0.05, 0.2, 0.6)
"""And for work of which there is little."""

SCARCE = "scarce"
"""A type of which there are few jobs, so that many go away with nothing."""

SCARCITY = 0.04
"""How many of the jobs are of it, and how many only go to and fro."""

WORKED = ["ranked", "strict"]

LANES = ["", "lane-0", "lane-0", "lane-0", "lane-1", "lane-2", "lane-3"]
"""Of these the second has the most jobs."""

HOLDS_S = (0.1, 0.4, 1.0)
"""How long a release holds a lane."""

RETURNED = "returned"
"""A type that only releasers work on."""

TRIES_MAX = 40

KEYS = 5
"""Unique keys that producers use, of each kind: few, so that they meet."""


class Worker(Client):
    """One worker, who has some jobs at a time."""

    def __init__(self, name: str, shared: Shared, stubs: Sequence[Stubs], rng: random.Random) -> None:
        super().__init__(name, shared, stubs, rng)
        self.counts: Counter[str] = Counter()
        self._late: set[asyncio.Task[None]] = set()
        self._asked = 0

    async def run(self) -> None:
        """Ask for work and do it until the run stops."""
        try:
            while not self._shared.stopping.is_set():
                await self.work()
                await pause(self._rng.uniform(0.0, 0.1))
        finally:
            for task in self._late:
                task.cancel()

    async def work(self) -> None:
        """Ask once, and do what comes."""
        habit = self._rng.random()
        if habit < 0.1:
            await self._go_away()
            return
        jobs = await (self._in_stream() if habit < 0.25 else self.acquire(self._request()))
        for job in jobs:
            await self._do(job)

    def _request(self) -> pb.AcquireRequest:
        """Mostly types that are made to be handed out, of which nobody takes a job by hand."""
        kinds = self._rng.sample(WORKED, self._rng.randrange(1, len(WORKED) + 1))
        habit = self._rng.random()
        if habit < 0.2:
            kinds = [SCARCE]
        elif habit < 0.6:
            kinds = self._rng.sample(list(LANED), self._rng.randrange(1, len(LANED) + 1))
        elif habit < 0.7:
            kinds += [self._rng.choice(list(LANED))]
        elif habit < 0.8:
            kinds += [self._rng.choice(list(JOB_TYPES))]
        self._asked += 1
        request = pb.AcquireRequest(
            job_types=kinds,
            max_jobs=self._rng.choice([0, 1, 2, 5]),
            worker=f"{self.name}/{self._asked}",
            lease=span(self._rng.choice(LEASES_S)),
        )
        wait = self._rng.choice(SHORT_WAITS_S if kinds == [SCARCE] else WAITS_S)
        if wait:
            request.wait.CopyFrom(span(wait))
        if self._rng.random() < 0.6:
            request.request_id = f"request-{self._shared.mark()}"
        return request

    async def acquire(self, request: pb.AcquireRequest) -> list[job_pb2.Job]:
        """Ask, and repeat what was not answered if that may be; now and then also what was."""
        await self._shared.present.wait()
        if self._rng.random() < MOVES:
            self._move()
        acquiring = self._begun(request)
        jobs: list[job_pb2.Job] = []
        for acquiring.tries in range(1, TRIES_MAX + 1):
            jobs = await self._try(acquiring, request)
            again = acquiring.outcome != ANSWERED and (not acquiring.reason or acquiring.reason in REPEATED)
            once_more = acquiring.outcome == ANSWERED and self._rng.random() < 0.1
            if not request.request_id or not (again or once_more) or self._rng.random() < 0.05:
                break
            await pause(self._rng.uniform(0.02, 0.1))
            self._move()
        acquiring.returned = Shared.now()
        return jobs

    def _begun(self, request: pb.AcquireRequest) -> Acquiring:
        acquiring = Acquiring(request.worker, tuple(request.job_types), request.max_jobs)
        acquiring.wait_s = request.wait.ToMilliseconds() / 1_000
        acquiring.request_id, acquiring.invoked = request.request_id, Shared.now()
        self._shared.acquires.append(acquiring)
        return acquiring

    async def _try(self, acquiring: Acquiring, request: pb.AcquireRequest) -> list[job_pb2.Job]:
        invoked = Shared.now()
        try:
            answer = await self._at.jobs.Acquire(request, timeout=acquiring.wait_s + CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            ending = ending_of(error)
            is_open = not ending.reason or ending.is_unknown
            acquiring.outcome = UNKNOWN if is_open else REFUSED
            acquiring.code, acquiring.reason = ending.code, ending.reason
            return []
        self._note(acquiring, invoked, answer.jobs)
        return list(answer.jobs)

    def _note(self, acquiring: Acquiring, invoked: float, jobs: Sequence[job_pb2.Job]) -> None:
        acquiring.outcome, acquiring.code, acquiring.reason = ANSWERED, "OK", ""
        acquiring.answers.append(Answer(invoked, Shared.now(), [(job.id, job.attempt) for job in jobs]))
        self.counts["jobs handed out"] += len(jobs)
        self.counts["acquires repeated"] += acquiring.tries > 1

    async def _go_away(self) -> None:
        """Ask, and be gone before the answer, or at the same moment."""
        await self._shared.present.wait()
        request = self._request()
        request.wait.CopyFrom(span(1.0))
        acquiring = self._begun(request)
        acquiring.tries = 1
        asking = asyncio.ensure_future(self._try(acquiring, request))
        await asyncio.wait([asking], timeout=self._rng.choice([0.0, 0.005, 0.02, 0.2]))
        asking.cancel()
        await asyncio.wait([asking])
        acquiring.returned = Shared.now()
        self.counts["callers gone"] += acquiring.outcome == UNKNOWN

    async def _in_stream(self) -> list[job_pb2.Job]:
        """Ask over a stream. What comes is ended over it too, in one batch with the next question."""
        await self._shared.present.wait()
        stream = self._at.jobs.StreamUpdates(timeout=2 * CALL_TIMEOUT_S)
        jobs: list[job_pb2.Job] = []
        try:
            for _ in range(3):
                jobs = await self._batch_of_stream(stream, jobs)
            await stream.done_writing()
            # A server that sees the stream cut off in the moment in which it sends the answer takes the jobs back.
            await stream.read()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            # gRPC has an error of its own for a stream that breaks in the moment in which it is to be ended.
            jobs = []
        finally:
            stream.cancel()
        return jobs

    async def _batch_of_stream(self, stream: Any, jobs: Sequence[job_pb2.Job]) -> list[job_pb2.Job]:
        request = self._request()
        request.ClearField("wait")
        calls = [Call("Complete", job.id, UNKNOWN, marker=self._shared.mark()) for job in jobs]
        updates = [
            pb.JobUpdate(complete=pb.CompleteRequest(id=job.id, attempt=job.attempt, result=struct(mark=call.marker)))
            for job, call in zip(jobs, calls, strict=True)
        ]
        acquiring = self._begun(request)
        acquiring.is_streamed, acquiring.tries = True, 1
        for call in calls:
            call.invoked = acquiring.invoked
        self._shared.calls += calls
        try:
            await stream.write(pb.StreamUpdatesRequest(updates=[*updates, pb.JobUpdate(acquire=request)]))
            answer = await stream.read()
        finally:
            acquiring.returned = Shared.now()
            for call in calls:
                call.returned = Shared.now()
        if answer is grpc.aio.EOF:
            return []
        for call, outcome in zip(calls, answer.outcomes[:-1], strict=True):
            note_outcome(call, outcome)
        self.counts["hand-outs in streams"] += bool(answer.outcomes[-1].jobs)
        if answer.outcomes[-1].HasField("refusal"):
            refusal = answer.outcomes[-1].refusal
            unknown = refusal.reason == "STORE_UNAVAILABLE" and "outcome is unknown" in refusal.message
            acquiring.outcome, acquiring.reason = (UNKNOWN if unknown else REFUSED), refusal.reason
            return []
        self._note(acquiring, acquiring.invoked, answer.outcomes[-1].jobs)
        return list(answer.outcomes[-1].jobs)

    async def _do(self, job: job_pb2.Job) -> None:
        """Whatever may become of an attempt in the hands of a worker."""
        fate = self._rng.random()
        if fate < 0.1:
            # The worker dies: the lease ends.
            self.counts["workers died"] += 1
        elif fate < 0.2:
            # It is stopped for two leases, and wakes.
            self._later(self._wake(job))
        elif fate < 0.35:
            await self.release(job)
        elif fate < 0.45:
            await self._fail(job.id, job.attempt)
        else:
            for _ in range(self._rng.randrange(3)):
                await self._progress(job.id, job.attempt)
            mark = self._shared.mark()
            request = pb.CompleteRequest(id=job.id, attempt=job.attempt, result=struct(mark=mark))
            await self._change("Complete", request, mark)

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _wake(self, job: job_pb2.Job) -> None:
        await pause(2 * job.lease.ToMilliseconds() / 1_000)
        mark = self._shared.mark()
        request = pb.CompleteRequest(id=job.id, attempt=job.attempt, result=struct(mark=mark))
        await self._change("Complete", request, mark)
        self.counts["workers woken"] += 1

    async def release(self, job: job_pb2.Job) -> job_pb2.Job | None:
        """Give an attempt back, at once or for a while."""
        mark = self._shared.mark()
        request = pb.ReleaseRequest(id=job.id, attempt=job.attempt, reason=mark)
        if self._rng.random() < 0.5:
            request.delay.CopyFrom(span(self._rng.choice([0.05, 0.3, 1.0])))
        if job.job_type in LANED and self._rng.random() < 0.5:
            request.hold_lane.CopyFrom(span(self._rng.choice(HOLDS_S)))
            self.counts["lanes held"] += 1
        return await self._change("Release", request, mark)


class DistantWorker(Worker):
    """A worker behind a proxy that loses answers. So it asks in a way that can be repeated."""

    async def work(self) -> None:
        """Ask once, until there is an answer, and do what comes."""
        request = self._request()
        request.request_id = request.request_id or f"request-{self._shared.mark()}"
        for job in await self.acquire(request):
            await self._do(job)


class Releaser(Worker):
    """A worker who gives everything back, for ever, until the server lets it no more."""

    async def work(self) -> None:
        """Take jobs of one type, and give them back."""
        request = self._request()
        request.max_jobs = 5
        del request.job_types[:]
        request.job_types.append(RETURNED)
        for job in await self.acquire(request):
            if await self.release(job) is None and job.attempt > RELEASES_MAX:
                self.counts["release limits met"] += 1
                mark = self._shared.mark()
                done = pb.CompleteRequest(id=job.id, attempt=job.attempt, result=struct(mark=mark))
                await self._change("Complete", done, mark)


class Producer(Client):
    """Makes jobs for the workers: some urgent, some delayed, some that expire, some with a key."""

    async def run(self) -> None:
        """Make jobs until the run stops."""
        while not self._shared.stopping.is_set():
            await self._rng.choice([self._one, self._one, self._many, self._keyed, self._keyed])()
            await pause(self._rng.uniform(0.0, 0.3))

    def request(self, job_id: str, mark: str) -> pb.CreateRequest:
        """A job with any of what a producer may ask for."""
        rare = self._rng.random()
        common = self._rng.choice(WORKED if self._rng.random() < 0.5 else list(LANED))
        job_type = SCARCE if rare < SCARCITY else RETURNED if rare < 2 * SCARCITY else common
        request = pb.CreateRequest(
            id=job_id,
            job_type=job_type,
            source_id=self._source(),
            labels=self._labels(),
            priority=job_pb2.Priority.ValueType(self._rng.randrange(6)),
        )
        if job_type in LANED:
            request.lane = self._rng.choice(LANES)
        delay_s = self._rng.choice([0.0, 0.0, 0.0, 0.05, 0.4, 1.5])
        if delay_s:
            request.delay.CopyFrom(span(delay_s))
        if self._rng.random() < 0.15:
            request.start_within.CopyFrom(span(self._rng.choice([0.2, 1.0])))
        request.metadata.CopyFrom(struct(delay_us=round(delay_s * 1_000_000), **({"mark": mark} if mark else {})))
        return request

    async def _one(self) -> None:
        mark = self._shared.mark()
        await self._change("Create", self.request(self._new_id(), mark), mark)

    async def _many(self) -> None:
        """More than there are hands, so that there is an order to keep."""
        job_ids = [self._new_id() for _ in range(self._rng.randrange(5, 25))]
        request = pb.BatchCreateRequest(requests=[self.request(job_id, "") for job_id in job_ids])
        for item in request.requests:
            item.request_id = f"request-{item.id}"
        call = Call("BatchCreate", "", UNKNOWN, request.requests[0].request_id, changes=False, job_ids=tuple(job_ids))
        await self._make(call, request)

    async def _keyed(self) -> None:
        """A job that may be there already: then no event is made."""
        kind = self._rng.choice([UNTIL_STARTED, "final"])
        request = self.request("", "")
        request.unique_key = f"{kind}-{self._rng.randrange(KEYS)}"
        if kind == UNTIL_STARTED:
            request.unique_until = pb.UNIQUE_UNTIL_STARTED
        if self._rng.random() < 0.7:
            request.request_id = f"request-{self._shared.mark()}"
        await self._make(Call("Create", "", UNKNOWN, request.request_id, changes=False), request)
