"""The standard gRPC health protocol, grpc.health.v1. No client can delay the others or a stop.

The library's own servicer holds a lock while it writes to each watcher, so that one that does not read blocks all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from jobstate_server.rpc.fair_limit import FairLimit
from jobstate_server.rpc.serving import Calls

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

WATCHERS_MAX = 1_000
"""Open Watch streams, some 27 KiB each: enough for a fleet of proxies, and more than any other caller needs."""

WATCHERS_CONNECTION_MAX = WATCHERS_MAX // 4
"""Open Watch streams of one connection, so that no connection can take all of them."""

CALLS_MAX = WATCHERS_MAX + 500
"""Open calls of all three methods, Watches included. The last quarter is for connections that have none open."""

REQUEST_BYTES_MAX = 4 * 1024
"""A request: the name of a service. It stays in memory during a watch."""

STOP_WRITE_S = 1.0
"""How long a stopping server waits for a watcher to read the last status."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class _Context(Protocol):
    """The part of gRPC's context that is used here."""

    def peer(self) -> str: ...

    async def write(self, message: bytes) -> None: ...

    async def abort(self, code: grpc.StatusCode, details: str = "") -> Any: ...


class HealthService:
    """The health of each service, and its watchers."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._watchers: Counter[str] = Counter()
        """How many Watch streams each connection has open."""
        self._changed = asyncio.Event()
        """Set when a status changes, and replaced by a new one."""
        self._draining = asyncio.Event()

    @property
    def watchers(self) -> int:
        """Open Watch streams."""
        return self._watchers.total()

    @property
    def watching(self) -> Collection[str]:
        """The connections that have a Watch stream open."""
        return self._watchers

    def register(self, server: grpc.aio.Server, calls: Calls) -> None:
        """Serve the protocol. Its calls are admitted as others are, within a limit of their own."""
        unary = {"Check": self._check, "List": self._list}
        calls.register_plain(server, SERVICE_NAME, unary, {"Watch": self._watch}, FairLimit(CALLS_MAX, 4))

    def set(self, service: str, is_serving: bool) -> None:
        """Set the status of a service, or with an empty name of the server. No effect once the server is stopping."""
        if not self._draining.is_set():
            self._statuses[service] = _SERVING if is_serving else _NOT_SERVING
            self._notify()

    def drain(self) -> None:
        """The server is stopping: set every status to NOT_SERVING and end the watches."""
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._draining.set()
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _check(self, raw: bytes, context: _Context) -> bytes:
        service = await _service_of(raw, context)
        status = self._statuses.get(service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "the server has no service of this name")
        return _answer(status)

    async def _list(self, _raw: bytes, _context: _Context) -> bytes:
        # The type stubs do not have this message yet.
        answer: Any = health_pb2.HealthListResponse()  # type: ignore[attr-defined]
        for service, status in self._statuses.items():
            answer.statuses[service].status = status
        encoded: bytes = answer.SerializeToString()
        return encoded

    async def _watch(self, raw: bytes, context: _Context) -> None:
        service, connection = await _service_of(raw, context), context.peer()
        if self.watchers >= WATCHERS_MAX or self._watchers[connection] >= WATCHERS_CONNECTION_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many health watches are open")
        self._watchers[connection] += 1
        try:
            await self._send_changes(service, context)
        finally:
            self._watchers -= Counter([connection])
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    async def _send_changes(self, service: str, context: _Context) -> None:
        """Send the status of the service, and every change, until the server stops."""
        sent: int | None = None
        while True:
            changed, is_last = self._changed, self._draining.is_set()
            status = self._statuses.get(service, _UNKNOWN)
            if status != sent:
                sent = status
                if not await self._write(_answer(status), context):
                    return
            if is_last:
                return
            await changed.wait()

    async def _write(self, answer: bytes, context: _Context) -> bool:
        """Send this. Returns False if the client does not read it while the server is stopping."""
        writing = asyncio.ensure_future(context.write(answer))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            if not self._draining.is_set():
                await asyncio.wait({writing, draining}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({writing}, timeout=STOP_WRITE_S)
            is_written = writing.done()
        finally:
            draining.cancel()
            writing.cancel()
        if is_written:
            writing.result()
        return is_written


async def _service_of(raw: bytes, context: _Context) -> str:
    if len(raw) <= REQUEST_BYTES_MAX:
        try:
            name: str = health_pb2.HealthCheckRequest.FromString(raw).service
        except DecodeError:
            pass
        else:
            return name
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "is not a HealthCheckRequest of at most 4 KiB")
    raise AssertionError("unreachable: abort raises")


def _answer(status: int | None) -> bytes:
    encoded: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    return encoded
