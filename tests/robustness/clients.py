"""Clients of a run: they create, drive, cancel and retry jobs, and write down what they were told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from jobstate.v1 import dispatch_service_pb2_grpc, job_pb2, job_service_pb2_grpc, maintenance_service_pb2_grpc
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import struct
from ..support.waiting import pause
from .history import ANSWERED, REFUSED, UNKNOWN, Acquiring, Bulk, Call, Erasing, Pausing
from .recording import Ending, Recorder, ending_of, state_name
from .server_process import JOB_TYPES

CALL_TIMEOUT_S = 3.0
"""A call to a server that is paused or gone ends after this, its outcome unknown."""

TRIES_MAX = 40

CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # How long one attempt to connect may take, which is long where the machine is busy.
    ("grpc.min_reconnect_backoff_ms", 20_000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),
)

REPEATED = frozenset({"DRAINING", "OVERLOADED", "STORE_UNAVAILABLE"})
"""Reasons that say to repeat the call."""

MOVES = 0.1
"""How likely a client makes its next call at another replica, without need."""

TENANTS = ("acme", "Zoë", "")
"""Values of a label of most jobs."""

BATCHED, SINGLE = "batch", "single"
"""Of the jobs with labels some are in the batch that this one names; the others are of this kind."""

PRIVATE = "private-"
"""Sources of which all jobs are erased, one after the other, have a number after this."""


class Stubs:
    """Stubs on a channel of their own."""

    def __init__(self, address: str, **options: int) -> None:
        arguments = [*CHANNEL_OPTIONS, *((f"grpc.{name}", value) for name, value in options.items())]
        self.channel = grpc.aio.insecure_channel(address, options=arguments)
        self.jobs: job_service_pb2_grpc.JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(self.channel)
        self.dispatch: dispatch_service_pb2_grpc.DispatchServiceAsyncStub = (
            dispatch_service_pb2_grpc.DispatchServiceStub(self.channel)
        )
        self.maintenance: maintenance_service_pb2_grpc.MaintenanceServiceAsyncStub = (
            maintenance_service_pb2_grpc.MaintenanceServiceStub(self.channel)
        )


@dataclass
class Shared:
    """What clients and watchers of one run know together."""

    addresses: Sequence[str]
    """Of every replica."""
    recorder: Recorder
    calls: list[Call] = field(default_factory=list)
    acquires: list[Acquiring] = field(default_factory=list)
    pauses: list[Pausing] = field(default_factory=list)
    bulks: list[Bulk] = field(default_factory=list)
    erasings: list[Erasing] = field(default_factory=list)
    job_ids: list[str] = field(default_factory=list)
    """Jobs that were created, or may have been."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    marks: int = 0
    repeatable: list[tuple[Call, Message]] = field(default_factory=list)
    """Calls with a request id that are over, each with its request."""
    present: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the clients are there. Cleared, none begins another call."""
    batch: int = 0
    """The batch that jobs are created in now."""
    private: int = 0
    """The number of the private source that jobs are created with now."""
    in_flight: Counter[str] = field(default_factory=Counter)
    """Ids and sources in calls under way that may create their jobs."""
    created: dict[str, float] = field(default_factory=dict)
    """When the call was over that was to create each job."""
    of_source: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The jobs that may have been created with a private source."""
    forgotten: set[str] = field(default_factory=set)
    """Jobs that are to be erased. Their creation is not repeated."""

    def __post_init__(self) -> None:
        self.present.set()

    async def stubs(self) -> list[Stubs]:
        """New stubs for each replica, closed with the run."""
        stubs = [Stubs(address) for address in self.addresses]
        for each in stubs:
            await self.stack.enter_async_context(each.channel)
        return stubs

    @property
    def private_source(self) -> str:
        """The source that some jobs are created with now."""
        return f"{PRIVATE}{self.private}"

    @contextmanager
    def creation(self, request: Message) -> Iterator[None]:
        """A call that may create jobs is under way. Any other call is nothing to this."""
        requests = _creations(request)
        names = [name for each in requests for name in (each.id, each.source_id) if name]
        for each in requests:
            if each.source_id.startswith(PRIVATE):
                self.of_source[each.source_id].add(each.id)
        self.in_flight.update(names)
        try:
            yield
        finally:
            self.in_flight.subtract(names)
            self.created.update((each.id, self.now()) for each in requests if each.id)

    def meet(self, job_ids: Iterable[str]) -> None:
        """Let everybody know of jobs whose ids the server has made."""
        new = [job_id for job_id in job_ids if job_id not in self.created]
        self.job_ids += new
        self.created.update(dict.fromkeys(new, self.now()))

    def may_repeat(self, request: Message) -> bool:
        """Whether a repeat of this call cannot create a job that was erased once more."""
        return self.forgotten.isdisjoint(each.id for each in _creations(request))

    def mark(self) -> str:
        """Text that no other call carries."""
        self.marks += 1
        return f"mark-{self.marks}"

    @staticmethod
    def now() -> float:
        """Seconds of the run's clock."""
        return asyncio.get_running_loop().time()


def _creations(request: Message) -> Sequence[pb.CreateRequest]:
    if isinstance(request, pb.BatchCreateRequest):
        return request.requests
    return [request] if isinstance(request, pb.CreateRequest) else []


def label_texts(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Labels as histories have them."""
    return tuple(sorted(f"{key}={value}" for key, value in labels.items()))


def note_failure(call: Call, error: grpc.aio.AioRpcError) -> None:
    """Write down how a call failed, and whether its change may have been made all the same."""
    ending = ending_of(error)
    call.outcome = UNKNOWN if may_be_done(ending) else REFUSED
    call.code, call.reason = ending.code, ending.reason


def may_be_done(ending: Ending) -> bool:
    """Whether the change of a call that ended so may have been made."""
    is_open = not ending.reason and ending.code in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
    return is_open or ending.is_unknown


def note_outcome(call: Call, outcome: pb.UpdateOutcome) -> None:
    """Write down what came of an update in a stream."""
    if not outcome.HasField("refusal"):
        call.outcome, call.code = ANSWERED, "OK"
        call.version, call.attempt = outcome.version, outcome.attempt
        call.state = state_name(job_pb2.JobState.ValueType(outcome.state))
        return
    call.reason = outcome.refusal.reason
    is_unknown = call.reason == "STORE_UNAVAILABLE" and "outcome is unknown" in outcome.refusal.message
    call.outcome = UNKNOWN if is_unknown else REFUSED


class Client:
    """One client, doing one thing at a time."""

    def __init__(self, name: str, shared: Shared, stubs: Sequence[Stubs], rng: random.Random) -> None:
        """``stubs``: of every replica. A client stays at one until that fails it, or it feels like moving."""
        self.name = name
        self.moves = 0
        self._shared = shared
        self._stubs = stubs
        self._rng = rng
        self._count = 0
        self._at = rng.choice(stubs)

    def _move(self) -> None:
        before, self._at = self._at, self._rng.choice(self._stubs)
        self.moves += self._at is not before

    async def run(self) -> None:
        """Do one thing after another until the run stops."""
        doings: list[Callable[[], Awaitable[None]]] = [self._live, self._live, self._live, self._meddle, self._batch]
        while not self._shared.stopping.is_set():
            await self._rng.choice(doings)()

    async def _live(self) -> None:
        """Create a job, and work on it."""
        job_id = self._new_id()
        await self._create(job_id)
        await self._work(job_id)

    async def _work(self, job_id: str) -> None:
        """Take a queued job through some of its life."""
        started = await self._start(job_id)
        if started is None:
            return
        attempt = started.attempt
        for _ in range(self._rng.randrange(6)):
            await self._progress(job_id, attempt)
        ending = self._rng.random()
        if ending < 0.45:
            mark = self._shared.mark()
            request = pb.CompleteRequest(id=job_id, attempt=attempt, result=struct(mark=mark))
            await self._change("Complete", request, mark)
        elif ending < 0.75:
            await self._fail(job_id, attempt)
        elif ending < 0.85:
            await self._cancel(job_id)
        # Else it is left to its timeout, or to be found stale.

    async def _meddle(self) -> None:
        """Look at any job, and do something that fits, or nearly."""
        job_id = self._rng.choice(self._shared.job_ids or [self._new_id()])
        job = await self._get(job_id)
        if job is None:
            return
        if job.state == job_pb2.JOB_STATE_PROCESSING and not job.claimed and self._rng.random() < 0.4:
            # A report claims the attempt as well as a Start does.
            await (self._fail if self._rng.random() < 0.3 else self._progress)(job_id, job.attempt)
        elif job.state == job_pb2.JOB_STATE_PROCESSING and not job.claimed:
            claimed = await self._start(job_id)
            if claimed is not None and self._rng.random() < 0.7:
                await self._progress(job_id, claimed.attempt)
                await self._fail(job_id, claimed.attempt)
        elif job.state in {job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_RETRYING}:
            retry = pb.RetryRequest(id=job_id, immediately=self._rng.random() < 0.5)
            await self._change("Retry", retry, "")
        elif self._rng.random() < 0.2:
            await self._cancel(job_id)
        elif job.state == job_pb2.JOB_STATE_QUEUED:
            await self._work(job_id)
        elif job.attempt and self._rng.random() < 0.5:
            await self._report_usage(job_id, self._rng.randrange(1, job.attempt + 1))
        else:
            await self._progress(job_id, max(1, job.attempt))

    async def _batch(self) -> None:
        """Create several jobs at once, and work on some of them."""
        job_ids = [self._new_id() for _ in range(self._rng.randrange(1, 8))]
        items = [self._create_request(job_id, "") for job_id in job_ids]
        if self._rng.random() < 0.7:
            for item in items:
                item.request_id = f"request-{item.id}"
        request = pb.BatchCreateRequest(requests=items)
        call = Call("BatchCreate", "", UNKNOWN, items[0].request_id, changes=False, job_ids=tuple(job_ids))
        await self._make(call, request)
        for job_id in job_ids[:3]:
            await self._work(job_id)

    def _new_id(self) -> str:
        self._count += 1
        job_id = f"{self.name}-{self._count}"
        self._shared.job_ids.append(job_id)
        return job_id

    def _source(self) -> str:
        is_private = self._rng.random() < 0.15
        return self._shared.private_source if is_private else f"source-{self._rng.randrange(4)}"

    def _labels(self) -> dict[str, str]:
        """Labels of a new job: mostly some."""
        kind = self._rng.random()
        if kind < 0.4:
            return {}
        own = {BATCHED: str(self._shared.batch)} if kind < 0.6 else {"kind": SINGLE}
        return {"tenant": self._rng.choice(TENANTS), **own}

    def _create_request(self, job_id: str, mark: str) -> pb.CreateRequest:
        job_type = self._rng.choice(list(JOB_TYPES))
        request = pb.CreateRequest(id=job_id, job_type=job_type, source_id=self._source(), labels=self._labels())
        if mark:
            request.metadata.CopyFrom(struct(mark=mark, owner=self.name))
        return request

    async def _create(self, job_id: str) -> None:
        mark = self._shared.mark()
        await self._change("Create", self._create_request(job_id, mark), mark)

    async def _start(self, job_id: str) -> job_pb2.Job | None:
        mark = self._shared.mark()
        return await self._change("Start", pb.StartRequest(id=job_id, worker=mark), mark)

    async def _fail(self, job_id: str, attempt: int) -> None:
        mark = self._shared.mark()
        request = pb.FailRequest(id=job_id, attempt=attempt, error=pb.FailureReport(code=mark))
        if self._rng.random() < 0.2:
            request.retryable = False
        await self._change("Fail", request, mark)

    async def _cancel(self, job_id: str) -> None:
        mark = self._shared.mark()
        await self._change("Cancel", pb.CancelRequest(id=job_id, reason=mark), mark)

    async def _progress(self, job_id: str, attempt: int) -> None:
        request = pb.UpdateProgressRequest(id=job_id, attempt=attempt)
        if self._rng.random() < 0.15:
            await self._make(Call("UpdateProgress", job_id, UNKNOWN, changes=False), request)
            return
        mark = self._shared.mark()
        request.message = mark
        request.progress = self._rng.randrange(101)
        request.usage.tokens = self._rng.randrange(1_000)
        kind = self._rng.random()
        if kind < 0.2:
            request.metadata.CopyFrom(struct(step=self._rng.randrange(10)))
        elif kind < 0.3:
            request.metadata.CopyFrom(struct(step=None, mark=None, owner=None))
        await self._change("UpdateProgress", request, mark)

    async def _report_usage(self, job_id: str, attempt: int) -> None:
        usage = job_pb2.Usage(tokens=self._rng.randrange(2_000))
        request = pb.ReportUsageRequest(id=job_id, attempt=attempt, usage=usage)
        # When no total grows there is no event.
        await self._make(Call("ReportUsage", job_id, UNKNOWN, changes=False), request)

    async def _get(self, job_id: str) -> job_pb2.Job | None:
        return await self._make(Call("Get", job_id, UNKNOWN, changes=False), pb.GetRequest(id=job_id))

    async def _change(self, rpc: str, request: Any, mark: str) -> job_pb2.Job | None:
        request_id = ""
        if hasattr(request, "request_id") and self._rng.random() < 0.7:
            request.request_id = request_id = f"request-{self._shared.mark()}"
        # A Retry of what waits already, or of what has been retried meanwhile, is answered and makes no event.
        return await self._make(Call(rpc, request.id, UNKNOWN, request_id, mark, changes=rpc != "Retry"), request)

    async def _make(self, call: Call, request: Message) -> job_pb2.Job | None:
        """Make a call; repeat one whose outcome is unknown if it has a request id, now and then."""
        with self._shared.creation(request):
            return await self._make_it(call, request)

    async def _make_it(self, call: Call, request: Message) -> job_pb2.Job | None:
        await self._shared.present.wait()
        if self._rng.random() < MOVES:
            self._move()
        call.invoked = Shared.now()
        answer: Any = None
        for call.tries in range(1, TRIES_MAX + 1):
            try:
                answer = await getattr(self._at.jobs, call.rpc)(request, timeout=CALL_TIMEOUT_S)
                call.outcome, call.code, call.reason = ANSWERED, "OK", ""
                break
            except grpc.aio.AioRpcError as error:
                note_failure(call, error)
                if call.reason and call.reason not in REPEATED:
                    break
                self._move()
            if not call.request_id or self._rng.random() < 0.05:
                break
            call.outcome = UNKNOWN
            await pause(self._rng.uniform(0.02, 0.1))
        call.returned = Shared.now()
        self._shared.calls.append(call)
        if call.request_id:
            self._shared.repeatable.append((call, request))
        job: job_pb2.Job | None = getattr(answer, "job", None)
        if job is not None:
            call.existing = getattr(answer, "existing", False)
            # A Create may leave the id to the server.
            call.job_id = call.job_id or job.id
            call.version, call.attempt, call.state = job.version, job.attempt, state_name(job.state)
        return job
