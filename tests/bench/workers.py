"""Workers in the load process: they ask for jobs and report on those that they get, over streams or in calls.

Which jobs a worker gets is told by the server alone, so what it sends cannot be made beforehand, as the bodies of the
other loads are: the answers to its acquires are decoded, and its next batch or call is made of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from . import messages
from .drivers import Poller, Tally, connected, headers
from .http2 import Connection, Messages
from .messages import ONE_LEVEL, PERCENTAGES, Level, Request

ENDED_WITHIN_S = 300.0


@dataclass(frozen=True)
class Plan:
    """What each worker does, until all of them have had so many jobs."""

    jobs: int
    """Of all workers together."""
    hands: int
    """Jobs that a worker has at a time, and asks for at once."""
    reports: int = len(PERCENTAGES)
    makes: bool = True
    """Whether it first creates as many jobs as it then asks for, so that as many are ready all the time."""
    prefix: str = ""
    """Of the ids of the jobs that are made."""
    levels: tuple[Level, ...] = ONE_LEVEL
    """The priorities of the jobs that are made, in turn."""
    starts: bool = False
    """Whether it starts the jobs that it has made by hand, in place of asking for jobs."""
    releases: bool = False
    """Whether it gives the jobs back in place of completing them."""
    lanes: int = 1
    """How many lanes the jobs that are made are in, in turn. With one it is the empty one."""
    group_id: str = ""
    """The group of the jobs that are made."""
    wait_s: float = 0.0
    """How long an acquire waits for a job, in calls."""
    last: str = ""
    """The id of the job after which they take no more."""


@dataclass
class Worked:
    """What workers did."""

    tally: Tally = field(default_factory=Tally)
    acquires: int = 0
    hand_outs: int = 0
    empty: int = 0
    """Acquires that got nothing. The jobs that were ready were in another's turn, on PostgreSQL."""
    acquired: list[float] = field(default_factory=list)
    """How long each acquire took, in seconds."""

    def refuse_refusals(self, outcomes: Sequence[pb.UpdateOutcome]) -> None:
        """Note updates that were refused, and count the others."""
        for outcome in outcomes:
            if outcome.HasField("refusal"):
                self.tally.refuse(f"{outcome.id}: {outcome.refusal.message}")
            else:
                self.tally.answered += 1


class _Supply:
    """How many jobs are left to be made and taken, and their names."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._left = plan.jobs
        self._made = 0

    def take(self) -> int:
        """How many a worker that has its hands free asks for now; 0 when it was all."""
        number = min(self.plan.hands, self._left)
        self._left -= number
        return number

    def taken(self, jobs: Sequence[job_pb2.Job]) -> None:
        """Take note of jobs that a worker has got."""
        if self.plan.last and any(job.id == self.plan.last for job in jobs):
            self._left = 0

    def created(self, number: int) -> list[pb.CreateRequest]:
        """So many new jobs."""
        plan, first = self.plan, self._made
        self._made += number
        return [
            messages.create_request(
                f"{plan.prefix}-{each}",
                plan.levels[each % len(plan.levels)],
                messages.lane_name(each, plan.lanes),
                plan.group_id,
            )
            for each in range(first, first + number)
        ]


def _report(job: job_pb2.Job, progress: int) -> pb.UpdateProgressRequest:
    return pb.UpdateProgressRequest(id=job.id, attempt=job.attempt, progress=progress, message="half way there")


def _complete(job: job_pb2.Job) -> pb.CompleteRequest:
    return pb.CompleteRequest(id=job.id, attempt=job.attempt, result_count=12)


def _release(job: job_pb2.Job) -> pb.ReleaseRequest:
    return pb.ReleaseRequest(id=job.id, attempt=job.attempt, reason="not now")


def _acquire(number: int, wait_s: float = 0.0) -> pb.AcquireRequest:
    request = pb.AcquireRequest(job_types=[messages.JOB_TYPE], max_jobs=number, worker="worker-1")
    if wait_s:
        request.wait.FromNanoseconds(round(wait_s * 1e9))
    return request


# Over streams


class _Hands:
    """A worker on a stream, with one batch under way: the ends of its jobs and the next acquire are one batch."""

    def __init__(self, supply: _Supply, worked: Worked) -> None:
        self._supply = supply
        self._worked = worked
        self._jobs: Sequence[job_pb2.Job] = ()
        self._steps = self._batches()
        self.is_over = False

    def next_batch(self) -> list[pb.JobUpdate] | None:
        """What it sends now that its last batch was answered; None when it has done all."""
        updates = next(self._steps, None)
        self.is_over = updates is None
        return updates

    def answered(self, outcomes: Sequence[pb.UpdateOutcome]) -> None:
        """Take what its batch came to."""
        self._worked.refuse_refusals(outcomes)
        self._jobs = outcomes[-1].jobs if outcomes else ()

    def _batches(self) -> Iterator[list[pb.JobUpdate]]:
        plan, worked = self._supply.plan, self._worked
        ends: list[pb.JobUpdate] = []
        made: list[pb.CreateRequest] = []
        missing = 0
        while (number := missing or self._supply.take()) or ends:
            if number and plan.makes and not missing:
                made = self._supply.created(number)
                yield [pb.JobUpdate(create=request) for request in made]
            if not number:
                yield ends
                return
            if plan.starts:
                yield [*ends, *[pb.JobUpdate(start=messages.start_request(request.id)) for request in made]]
                jobs = [job_pb2.Job(id=request.id, attempt=1) for request in made]
            else:
                yield [*ends, pb.JobUpdate(acquire=_acquire(number))]
                jobs = list(self._jobs)
                worked.acquires += 1
            self._supply.taken(jobs)
            worked.empty += not jobs
            worked.hand_outs += len(jobs)
            missing = number - len(jobs)
            if worked.tally.refused:
                return
            for progress in PERCENTAGES[: plan.reports] if jobs else ():
                yield [pb.JobUpdate(progress=_report(job, progress)) for job in jobs]
            if plan.releases:
                ends = [pb.JobUpdate(release=_release(job)) for job in jobs]
            else:
                ends = [pb.JobUpdate(complete=_complete(job)) for job in jobs]


class _Stream:
    """One stream with several workers, each with a batch under way."""

    def __init__(self, connection: Connection, workers: Sequence[_Hands], tally: Tally) -> None:
        self._connection = connection
        self._tally = tally
        self._waiting: deque[tuple[_Hands, float]] = deque()
        self._messages = Messages(self._answered)
        self._number = 0
        self.is_over = False
        self._stream = connection.open(headers("StreamUpdates"), self)
        for worker in workers:
            self._send(worker)
        self._end_when_done()

    def _send(self, worker: _Hands) -> None:
        updates = worker.next_batch()
        if updates is not None:
            self._number += 1
            self._waiting.append((worker, time.monotonic()))
            self._connection.send(self._stream, messages.batch(self._number, updates), end=False)

    def _end_when_done(self) -> None:
        if not self._waiting:
            self._connection.send(self._stream, None, end=True)

    def _answered(self, message: bytes) -> None:
        worker, began = self._waiting.popleft()
        self._tally.began.append(began)
        self._tally.took.append(time.monotonic() - began)
        worker.answered(pb.StreamUpdatesResponse.FromString(message).outcomes)
        self._send(worker)
        self._end_when_done()

    def received(self, payload: bytes) -> None:
        self._messages.add(payload)

    def ended(self, problem: str) -> None:
        self.is_over = True
        if problem:
            self._tally.refuse(problem)


def stream_workers(address: str, plan: Plan, *, streams: int, workers: int) -> Worked:
    """Do the plan's jobs over streams, each on a connection of its own with so many workers."""
    supply, worked = _Supply(plan), Worked()

    def begin(connections: Sequence[Connection]) -> Callable[[], bool]:
        opened = [
            _Stream(connection, [_Hands(supply, worked) for _ in range(workers)], worked.tally)
            for connection in connections
        ]
        return lambda: all(stream.is_over for stream in opened)

    return _run(address, streams, worked, begin)


# In calls


class Answer:
    """One call: it keeps its answer, and tells whoever waits for it."""

    def __init__(self, done: Callable[[Answer], None]) -> None:
        self._done = done
        self._messages = Messages(self._take)
        self.message = b""
        self.problem = ""
        self.began = time.monotonic()
        self.ended_at = 0.0

    def _take(self, message: bytes) -> None:
        self.message = message
        self.ended_at = time.monotonic()

    def received(self, payload: bytes) -> None:
        self._messages.add(payload)

    def ended(self, problem: str) -> None:
        self.problem = problem
        self._done(self)


def send(connection: Connection, request: Request, done: Callable[[Answer], None]) -> None:
    """Make a call. ``done`` is called with its answer."""
    connection.send(connection.open(headers(request.method), Answer(done)), request.body, end=True)


class _Caller:
    """A worker that makes one call after the other: it fills its hands with one acquire, then does job by job."""

    def __init__(self, connection: Connection, supply: _Supply, worked: Worked) -> None:
        self._connection = connection
        self._supply = supply
        self._worked = worked
        self._message = b""
        self._calls = self._requests()
        self.is_over = False
        self.go_on()

    def go_on(self) -> None:
        """Make the next call."""
        request = next(self._calls, None)
        if request is None:
            self.is_over = True
            return
        send(self._connection, request, self._answered)

    def _answered(self, answer: Answer) -> None:
        tally = self._worked.tally
        if answer.problem:
            tally.refuse(answer.problem)
        else:
            tally.answered += 1
        tally.began.append(answer.began)
        tally.took.append(time.monotonic() - answer.began)
        self._message = answer.message
        self.go_on()

    def _requests(self) -> Iterator[Request]:
        plan, worked = self._supply.plan, self._worked
        while not worked.tally.refused and (number := self._supply.take()):
            for created in self._supply.created(number) if plan.makes else ():
                yield Request("Create", created.SerializeToString())
            while number and not worked.tally.refused:
                yield Request("Acquire", _acquire(number, plan.wait_s).SerializeToString())
                jobs = list(pb.AcquireResponse.FromString(self._message).jobs)
                self._supply.taken(jobs)
                worked.acquired.append(worked.tally.took[-1])
                worked.acquires += 1
                worked.empty += not jobs
                worked.hand_outs += len(jobs)
                number -= len(jobs)
                for job in jobs:
                    for progress in PERCENTAGES[: plan.reports]:
                        yield Request("UpdateProgress", _report(job, progress).SerializeToString())
                    yield Request("Complete", _complete(job).SerializeToString())


def calling_workers(address: str, plan: Plan, *, connections: int, workers: int) -> Worked:
    """Do the plan's jobs in unary calls, with so many workers."""
    supply, worked = _Supply(plan), Worked()

    def begin(opened: Sequence[Connection]) -> Callable[[], bool]:
        callers = [_Caller(opened[number % connections], supply, worked) for number in range(workers)]
        return lambda: all(caller.is_over for caller in callers)

    return _run(address, connections, worked, begin)


def _run(
    address: str, connections: int, worked: Worked, begin: Callable[[Sequence[Connection]], Callable[[], bool]]
) -> Worked:
    opened = connected(address, connections)
    poller = Poller(opened)
    tally = worked.tally
    cpu, began = time.process_time(), time.monotonic()
    in_time = poller.run(begin(opened), ENDED_WITHIN_S)
    tally.seconds, tally.cpu = time.monotonic() - began, time.process_time() - cpu
    poller.close()
    if not in_time:
        tally.refuse("the jobs were not done in time")
    return worked
