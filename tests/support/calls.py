"""Calls to a server, and their results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb

from .clock import PATIENCE_S
from .server import Client, Running

T = TypeVar("T", bound=Message)

EVENTS = pb.WATCH_RESPONSE_KIND_EVENTS
SYNCED = pb.WATCH_RESPONSE_KIND_SYNCED


@dataclass(frozen=True)
class Refusal:
    """The status that a call ended with."""

    code: grpc.StatusCode
    message: str
    reason: str
    """Empty when the status carries no ErrorInfo."""
    metadata: dict[str, str]
    details: Sequence[Message]
    """All details except the ErrorInfo."""

    @property
    def brief(self) -> tuple[str, str]:
        """Code and reason."""
        return self.code.name, self.reason

    def detail(self, kind: type[T]) -> T:
        """The only detail of this kind."""
        (found,) = [detail for detail in self.details if isinstance(detail, kind)]
        return found

    @property
    def fields(self) -> list[str]:
        """The fields that a BadRequest names."""
        return [violation.field for violation in self.detail(error_details_pb2.BadRequest).field_violations]


_DETAILS: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.ResourceInfo,
    error_details_pb2.RetryInfo,
)


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """The status in the error of a call."""
    status = rpc_status.from_call(cast(grpc.Call, error))
    found: list[Message] = []
    for packed in status.details if status is not None else ():
        (kind,) = [kind for kind in _DETAILS if packed.Is(kind.DESCRIPTOR)]
        detail = kind()
        packed.Unpack(detail)
        found.append(detail)
    infos = [detail for detail in found if isinstance(detail, error_details_pb2.ErrorInfo)]
    others = [detail for detail in found if not isinstance(detail, error_details_pb2.ErrorInfo)]
    info = infos[0] if infos else error_details_pb2.ErrorInfo()
    assert info.domain == ("jobstate" if infos else "")
    return Refusal(error.code(), error.details() or "", info.reason, dict(info.metadata), others)


async def refused(call: Awaitable[Any]) -> Refusal:
    """The status with which this call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


async def ask(client: Client, rpc: str, request: Message) -> Any:
    """Call the RPC of this name. Returns the response, or the first one of a stream."""
    method = getattr(client.jobs, rpc, None) or getattr(client.maintenance, rpc)
    call = method(request)
    if isinstance(call, grpc.aio.UnaryStreamCall):
        return await anext(aiter(call))
    return await call


def struct(**values: Any) -> Struct:
    """A Struct with these keys."""
    document = Struct()
    document.update(values)
    return document


def span(seconds: float) -> Duration:
    """A Duration."""
    return Duration(seconds=int(seconds), nanos=round((seconds - int(seconds)) * 1_000_000_000))


def micros(time: Timestamp | Duration) -> int:
    """Microseconds of a Timestamp or Duration."""
    return time.seconds * 1_000_000 + time.nanos // 1_000


class Watch:
    """An open watch."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[pb.WatchEventsRequest, pb.WatchEventsResponse]) -> None:
        self.call = call
        self._responses = aiter(call)

    async def response(self) -> pb.WatchEventsResponse:
        """The next response. Raises StopAsyncIteration when the stream has ended OK."""
        async with asyncio.timeout(PATIENCE_S):
            return await anext(self._responses)

    async def until(self, kind: pb.WatchResponseKind.ValueType) -> list[pb.WatchEventsResponse]:
        """The responses up to the first of this kind."""
        responses = [await self.response()]
        while responses[-1].kind != kind:
            responses.append(await self.response())
        return responses

    async def events(self, count: int) -> list[event_pb2.Event]:
        """At least this many events, read from as many responses as it takes."""
        found: list[event_pb2.Event] = []
        while len(found) < count:
            found.extend((await self.response()).events)
        return found

    async def event(self, type_: event_pb2.EventType.ValueType) -> event_pb2.Event:
        """The next event of this type. Other events are skipped."""
        while True:
            for event in (await self.response()).events:
                if event.type == type_:
                    return event

    async def rest(self) -> list[pb.WatchEventsResponse]:
        """The remaining responses of a stream that ends OK."""
        async with asyncio.timeout(PATIENCE_S):
            return [response async for response in self._responses]


async def until_health_is(client: Client, wanted: int) -> None:
    """Watch the standard health service until it reports this status."""
    watch = client.health.Watch(health_pb2.HealthCheckRequest())
    async with asyncio.timeout(PATIENCE_S):
        async for answer in watch:
            if answer.status == wanted:
                break
    watch.cancel()


@asynccontextmanager
async def watching(client: Client, request: pb.WatchEventsRequest) -> AsyncIterator[Watch]:
    """An open watch, cancelled at the end of the block."""
    call = client.jobs.WatchEvents(request)
    try:
        yield Watch(call)
    finally:
        call.cancel()


@asynccontextmanager
async def watching_live(client: Client, **filters: Any) -> AsyncIterator[Watch]:
    """A watch that has caught up."""
    async with watching(client, pb.WatchEventsRequest(**filters)) as watch:
        assert (await watch.response()).kind == SYNCED
        yield watch


async def history(client: Client, *job_ids: str, **filters: Any) -> list[event_pb2.Event]:
    """Every event that the log still holds, of these jobs or of all."""
    request = pb.WatchEventsRequest(job_ids=job_ids, start=pb.WATCH_START_EARLIEST, follow=False, **filters)
    async with watching(client, request) as watch:
        return [event for response in await watch.rest() for event in response.events]


def names(events: Sequence[event_pb2.Event]) -> list[str]:
    """The names of the events, without their common prefix."""
    return [event.name.removeprefix("processing-job.") for event in events]


async def create(client: Client, job_id: str = "job", job_type: str = "default", **fields: Any) -> job_pb2.Job:
    """Create a job."""
    return (await client.jobs.Create(pb.CreateRequest(id=job_id, job_type=job_type, **fields))).job


async def start(client: Client, job_id: str = "job", **fields: Any) -> job_pb2.Job:
    """Start or claim a job."""
    return (await client.jobs.Start(pb.StartRequest(id=job_id, **fields))).job


async def acquire(client: Client, *job_types: str, wait: float = 0, **fields: Any) -> list[job_pb2.Job]:
    """The jobs of an Acquire, of type ``default`` unless types are named."""
    request = pb.AcquireRequest(job_types=job_types or ("default",), **fields)
    if wait:
        request.wait.CopyFrom(span(wait))
    return list((await client.jobs.Acquire(request)).jobs)


async def release(client: Client, job_id: str = "job", **fields: Any) -> job_pb2.Job:
    """Release."""
    return (await client.jobs.Release(pb.ReleaseRequest(id=job_id, **fields))).job


async def report(client: Client, job_id: str = "job", **fields: Any) -> job_pb2.Job:
    """UpdateProgress."""
    return (await client.jobs.UpdateProgress(pb.UpdateProgressRequest(id=job_id, **fields))).job


async def complete(client: Client, job_id: str = "job", **fields: Any) -> job_pb2.Job:
    """Complete."""
    return (await client.jobs.Complete(pb.CompleteRequest(id=job_id, **fields))).job


async def fail(client: Client, job_id: str = "job", **fields: Any) -> job_pb2.Job:
    """Fail."""
    return (await client.jobs.Fail(pb.FailRequest(id=job_id, **fields))).job


async def retry(client: Client, job_id: str = "job", **fields: Any) -> job_pb2.Job:
    """Retry."""
    return (await client.jobs.Retry(pb.RetryRequest(id=job_id, **fields))).job


async def cancel(client: Client, job_id: str = "job", **fields: Any) -> job_pb2.Job:
    """Cancel."""
    return (await client.jobs.Cancel(pb.CancelRequest(id=job_id, **fields))).job


async def get(client: Client, job_id: str = "job") -> job_pb2.Job:
    """Get."""
    return (await client.jobs.Get(pb.GetRequest(id=job_id))).job


async def health_of(client: Client, service: str = "") -> int:
    """The status that the standard health service reports for a service."""
    answer: health_pb2.HealthCheckResponse
    answer = await client.health.Check(health_pb2.HealthCheckRequest(service=service))
    return answer.status


async def settled(running: Running) -> None:
    """Wait until the committer has done everything that was submitted before."""
    await running.server.committer.run(lambda transaction: None)


async def until_waiting(running: Running, calls: int) -> None:
    """Wait until so many calls of Acquire wait at the server."""
    async with asyncio.timeout(PATIENCE_S):
        while running.server.acquires.count != calls:
            await settled(running)
