"""A call as data: the RPC, the request, how the response is decoded, and when the call is repeated."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from jobstate.v1 import dispatch_service_pb2, job_service_pb2, maintenance_service_pb2
from jobstate_client.core.documents import seconds
from jobstate_client.core.values import Span
from jobstate_client.errors import InternalError, JobStateError, TransportError, TryLater, Unreachable

R = TypeVar("R")
T = TypeVar("T")


class Rpc(NamedTuple):
    """One RPC of the contract."""

    name: str
    service: str
    path: str
    request_type: type[Message]
    response_type: type[Message]
    is_stream: bool
    """Whether requests or responses are streamed."""


TRANSIENT = (TransportError, TryLater, InternalError)
"""Errors that may not come again when the same call is repeated."""

SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    dispatch_service_pb2.DESCRIPTOR.services_by_name["DispatchService"],
    maintenance_service_pb2.DESCRIPTOR.services_by_name["MaintenanceService"],
)

RPCS = {
    method.name: Rpc(
        method.name,
        service.full_name,
        f"/{service.full_name}/{method.name}",
        GetMessageClass(method.input_type),
        GetMessageClass(method.output_type),
        method.client_streaming or method.server_streaming,
    )
    for service in SERVICES
    for method in service.methods
}
"""By name: no name is in two services."""


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A unary call."""

    rpc: str
    request: Message
    decode: Callable[[Any], R]
    """Makes the result from the response."""
    timeout: Span | None = None
    """None takes the client's."""
    wait_s: float = 0.0
    """How long the server may wait before it answers: added to the client's timeout."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Arguments that have another name than the field of the request, by the name of the field."""
    through_outages: bool = False
    """Whether it is repeated while no server is reached, until its timeout, whatever the client's other calls do."""

    def timeout_s(self, default_s: float) -> float:
        """How long the call may take with all its repeats, if the client's timeout is ``default_s``."""
        return default_s + self.wait_s if self.timeout is None else seconds(self.timeout, "timeout")

    @property
    def request_id(self) -> str:
        """The request_id that makes a repeat safe; empty if the call needs none, or has one for each item."""
        return getattr(self.request, "request_id", "")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a listing."""

    items: tuple[T, ...]
    next_token: str


@dataclass(frozen=True, slots=True)
class Pages(Generic[T]):
    """A listing: one call for each page."""

    first: Call[Page[T]]

    def after(self, page: Page[T]) -> Call[Page[T]] | None:
        """The call for the next page; None if this is the last page."""
        if not page.next_token:
            return None
        request = type(self.first.request)()
        request.CopyFrom(self.first.request)
        request.page_token = page.next_token  # type: ignore[attr-defined]
        return replace(self.first, request=request)


def decode_with(name: str, module: str = "inspection_decoding") -> Callable[[Any], Any]:
    """Decode a response with the function of this name in a module beside this one, which is imported with the first
    response."""

    def decode(response: Any) -> Any:
        return getattr(import_module(f"jobstate_client.core.{module}"), name)(response)

    return decode


class Backoff:
    """Delays that double, with jitter so that clients do not all come back at once."""

    def __init__(self, first_s: float = 0.1, limit_s: float = 10.0) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._next_s = first_s

    def next(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait: between half and all of the current step, and at least what the server asked for."""
        step, self._next_s = self._next_s, min(self._limit_s, self._next_s * 2)
        return max(at_least_s, step * random.uniform(0.5, 1.0))

    def reset(self) -> None:
        """Start again with the first delay, after a success."""
        self._next_s = self._first_s


class CallRetries:
    """Whether and when a call is repeated within its timeout, after the server asked to try later.

    gRPC itself repeats a call whose connection broke (channel.py), a few times within a second or two. That is not
    enough with ``through_outages``: while a server is away, a proxy in front of it answers UNAVAILABLE at once.
    """

    def __init__(self, timeout_s: float, *, through_outages: bool = False) -> None:
        self._repeated = (TryLater, Unreachable) if through_outages else (TryLater,)
        self._deadline = time.monotonic() + timeout_s
        self._backoff = Backoff()

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def wait_s(self, error: JobStateError) -> float:
        """Seconds to wait before the call is repeated.

        Raises:
            JobStateError: the error itself, if a repeat would not help, or would come after the timeout.
        """
        if not isinstance(error, self._repeated):
            raise error
        asked = error.retry_after.total_seconds() if error.retry_after else 0.0
        wait = self._backoff.next(at_least_s=asked)
        if wait >= self.left_s():
            raise error
        return wait
