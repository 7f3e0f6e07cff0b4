"""A call as data: which RPC, with what request, what its answer is read as, and when it is repeated."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from jobstate.v1 import job_service_pb2, maintenance_service_pb2
from jobstate_client.core.values import Span
from jobstate_client.errors import JobStateError, TryLater, Unreachable

R = TypeVar("R")
T = TypeVar("T")


class Rpc(NamedTuple):
    """How an RPC is reached."""

    name: str
    service: str
    path: str
    request_type: type[Message]
    response_type: type[Message]
    is_stream: bool
    """Whether messages stream in any direction."""


SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
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
"""By name: the two services have no name in common."""


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One call that one answer ends."""

    rpc: str
    request: Message
    read: Callable[[Any], R]
    """Makes the result of the response."""
    timeout: Span | None = None
    """None takes the client's."""

    @property
    def request_id(self) -> str:
        """What makes repeating this call safe; empty when it needs nothing, or has one for each item."""
        return getattr(self.request, "request_id", "")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a listing."""

    items: tuple[T, ...]
    next_token: str


@dataclass(frozen=True, slots=True)
class Pages(Generic[T]):
    """A listing: calls that follow from each other."""

    first: Call[Page[T]]

    def after(self, page: Page[T]) -> Call[Page[T]] | None:
        """The call for the next page, None when this is the last."""
        if not page.next_token:
            return None
        request = type(self.first.request)()
        request.CopyFrom(self.first.request)
        request.page_token = page.next_token  # type: ignore[attr-defined]
        return Call(self.first.rpc, request, self.first.read, self.first.timeout)


def report(kind: str) -> Callable[[Any], Any]:
    """What reads an answer by the function of this name in reports.py, which is imported when there is one."""

    def read(response: Any) -> Any:
        return getattr(import_module("jobstate_client.core.inspection"), kind)(response)

    return read


class Backoff:
    """Waits that double, with jitter so that not all clients come back at once."""

    def __init__(self, first_s: float = 0.1, limit_s: float = 10.0) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._next_s = first_s

    def next(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait, between half and the whole of the current step, and never below what the server asked."""
        step, self._next_s = self._next_s, min(self._limit_s, self._next_s * 2)
        return max(at_least_s, step * random.uniform(0.5, 1.0))

    def reset(self) -> None:
        """Begin anew: something went well."""
        self._next_s = self._first_s


class CallRetries:
    """Whether and when a call is repeated after the server said "later", within its timeout.

    A lost connection is gRPC's to mend (channel.py), a few times over a second or two. Who wants to wait for a server
    that is away is not done with that: a proxy answers UNAVAILABLE for it at once, for as long as it is away.
    """

    def __init__(self, timeout_s: float, *, through_outages: bool = False) -> None:
        self._later = (TryLater, Unreachable) if through_outages else (TryLater,)
        self._deadline = time.monotonic() + timeout_s
        self._backoff = Backoff()

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def wait_s(self, error: JobStateError) -> float:
        """Seconds to wait before the call is repeated.

        Raises:
            JobStateError: the error itself, which repeating does not mend, or not in time.
        """
        if not isinstance(error, self._later):
            raise error
        asked = error.retry_after.total_seconds() if error.retry_after else 0.0
        wait = self._backoff.next(at_least_s=asked)
        if wait >= self.left_s():
            raise error
        return wait
