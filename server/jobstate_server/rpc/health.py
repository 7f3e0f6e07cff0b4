"""The standard gRPC health protocol, grpc.health.v1, such that nobody who asks can hold up the others or a stop.

The library's own servicer writes to each watcher with a lock held: one that does not read stops the news for all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

WATCHERS_MAX = 1_000
"""Open Watch streams, some 27 KiB each: every replica of a fleet of proxies, and more than any other caller needs."""

WATCHERS_CONNECTION_MAX = WATCHERS_MAX // 4
"""Of one connection, so that none can take the places of all others."""

REQUEST_BYTES_MAX = 4 * 1024
"""A request: the name of a service. A watch keeps it."""

LAST_WORD_S = 1.0
"""How long a stopping server waits for a watcher to read that it stops."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class _Context(Protocol):
    """What is used of gRPC's context."""

    def peer(self) -> str: ...

    async def write(self, message: bytes) -> None: ...

    async def abort(self, code: grpc.StatusCode, details: str = "") -> Any: ...


class HealthService:
    """What each service's health is, and who watches it."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._watchers: Counter[str] = Counter()
        """By connection."""
        self._news = asyncio.Event()
        """Replaced when it is set: whoever waited looks again."""
        self._draining = asyncio.Event()

    @property
    def watchers(self) -> int:
        """Open Watch streams."""
        return self._watchers.total()

    @property
    def watching(self) -> Collection[str]:
        """The connections that have one open."""
        return self._watchers

    def register(self, server: grpc.aio.Server) -> None:
        """Serve the protocol."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "List": grpc.unary_unary_rpc_method_handler(self._list),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))

    def set(self, service: str, is_serving: bool) -> None:
        """Tell how a service is; the empty name is the whole server. Has no effect once the server stops."""
        if not self._draining.is_set():
            self._statuses[service] = _SERVING if is_serving else _NOT_SERVING
            self._tell()

    def drain(self) -> None:
        """The server stops: nothing is serving any more, and the watches end."""
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._draining.set()
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _check(self, raw: bytes, context: _Context) -> bytes:
        service = await _service_of(raw, context)
        status = self._statuses.get(service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "the server has no service of this name")
        return _answer(status)

    async def _list(self, _raw: bytes, _context: _Context) -> bytes:
        # The stubs of the types do not know of it yet.
        answer: Any = health_pb2.HealthListResponse()  # type: ignore[attr-defined]
        for service, status in self._statuses.items():
            answer.statuses[service].status = status
        encoded: bytes = answer.SerializeToString()
        return encoded

    async def _watch(self, raw: bytes, context: _Context) -> None:
        service, connection = await _service_of(raw, context), context.peer()
        if self.watchers >= WATCHERS_MAX or self._watchers[connection] >= WATCHERS_CONNECTION_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch the health already")
        self._watchers[connection] += 1
        try:
            await self._follow(service, context)
        finally:
            self._watchers -= Counter([connection])
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    async def _follow(self, service: str, context: _Context) -> None:
        """Tell how the service is, again and again, until the server stops."""
        told: int | None = None
        while True:
            news, is_last = self._news, self._draining.is_set()
            status = self._statuses.get(service, _UNKNOWN)
            if status != told:
                told = status
                if not await self._is_written(_answer(status), context):
                    return
            if is_last:
                return
            await news.wait()

    async def _is_written(self, answer: bytes, context: _Context) -> bool:
        """Send this. Who does not read it is not waited for by a server that stops."""
        writing = asyncio.ensure_future(context.write(answer))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            if not self._draining.is_set():
                await asyncio.wait({writing, draining}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({writing}, timeout=LAST_WORD_S)
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
