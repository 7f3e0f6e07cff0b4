"""Which calls are admitted. It is decided at their headers, before the request is received.

gRPC receives the request of a unary call before any of our code runs, and the requests of a stream only when its
handler reads. So all calls are served as streams of requests, and unary calls as streams of one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import monotonic
from typing import Any, NoReturn

import grpc

from jobstate_server.domain.errors import InvalidField, JobStateError, Overloaded
from jobstate_server.rpc.byte_budget import ByteBudget, Share
from jobstate_server.rpc.connections import Connections
from jobstate_server.rpc.fair_limit import FairLimit
from jobstate_server.rpc.receive_buffers import CALL_BYTES, ReceiveBuffers
from jobstate_server.rpc.resets import EARLY_S, Resets
from jobstate_server.rpc.transport import connections_max
from jobstate_server.rpc.transport_limits import (
    BATCH_WEIGHT,
    CALLS_MAX,
    REQUEST_S,
    STREAMS_MAX,
    TRANSPORT_BYTES_MAX,
    UNREAD_S,
)

RETRY_DELAY_S = 0.5

CHECKS_MAX = 4
"""Checks during which a request may be missing, however old its call is: a fifth of a second, and longer if the loop is
late."""

CHECKS_AFTER_REFUSAL = 40
"""Checks after a call was refused because too many are open: two seconds."""

_CHECK_INTERVAL_S = 0.05
"""Seconds between two checks for requests that do not arrive."""

_UNREAD_CHECK_INTERVAL_S = 1.0
"""Seconds, at least, between two checks for answers that are not read."""


class ReceivingCall:
    """A call whose request has to be received."""

    __slots__ = ("checks", "connection", "context", "since", "task")

    connection: str
    context: Any
    task: asyncio.Task[Any] | None
    """The task that serves the call, until its handler has ended."""
    since: float
    """When its headers arrived."""
    checks: int
    """How many checks found that the request was missing."""

    def end(self, error: JobStateError) -> None:
        """End the call with this error."""
        raise NotImplementedError


class Admission:
    """The open calls and the room for requests. Call it on the event loop's thread."""

    def __init__(self, requests_bytes_max: int, open_streams_max: int, memory_short: int) -> None:
        """Five eighths of the bytes are for single requests, and three eighths for batches.

        Until a batch has arrived, it counts as the largest message that gRPC accepts.
        """
        eighth = requests_bytes_max // 8
        self.calls = FairLimit(CALLS_MAX, 4)
        """Unary calls, which are open until their answer has been read."""
        self.streams = FairLimit(open_streams_max, 16)
        """Streams, and calls of Acquire: most of these wait, and take no places of other calls."""
        self.update_streams = FairLimit(STREAMS_MAX, 4)
        self.buffers = ReceiveBuffers(5 * eighth, memory_short, self._has_calls)
        self._receiving: dict[ReceivingCall, None] = {}
        """The calls whose requests have not arrived. The oldest come first."""
        self._checks_left = 0
        self._next_check: asyncio.TimerHandle | None = None
        self._batches = ByteBudget(3 * eighth, 3 * eighth // 4)
        self._answered: dict[int, tuple[float, str]] = {}
        """When each call with an unread answer was answered, and its connection. The oldest come first."""
        self._last_check = 0.0
        self.connections = Connections(connections_max())
        self.resets = Resets(lambda peer: self.connections.end(peer, "most of their calls were reset"))
        self.connections.count_as_used(lambda: (*self.calls.by_connection, *self.streams.by_connection))

    def admit(self, limits: tuple[FairLimit, ...], connection: str) -> None:
        """Count a call of this connection. Raises Overloaded if there is no room for it."""
        self.connections.called(connection)
        self.buffers.count_read(connection, CALL_BYTES)
        for limit in limits:
            if not limit.take(connection):
                self._refuse(limits, limit, connection)

    def _has_calls(self, connection: str) -> bool:
        return connection in self.calls.by_connection or connection in self.streams.by_connection

    def _refuse(self, limits: tuple[FairLimit, ...], full: FairLimit, connection: str) -> NoReturn:
        for taken in limits[: limits.index(full)]:
            taken.give_back(connection)
        self._end_unread()
        self._checks_left = CHECKS_AFTER_REFUSAL
        if self._next_check is None:
            self._next_check = asyncio.get_running_loop().call_later(_CHECK_INTERVAL_S, self._end_late)
        raise Overloaded(f"too many such calls are open (at most {full.limit}); repeat the call later", RETRY_DELAY_S)

    def receiving(self, call: ReceivingCall) -> Awaitable[Any]:
        """Reads the request of a call, or EOF. Call ``received`` after it, in any case.

        The request comes when it comes. The call is ended when it is late and calls are refused for it.
        """
        call.checks = 0
        self._receiving[call] = None
        reading: Awaitable[Any] = call.context.read()
        return reading

    def received(self, call: ReceivingCall) -> None:
        """Note that the request of a call has arrived, or will not be read."""
        self._receiving.pop(call, None)

    def _end_late(self) -> None:
        """End the calls whose requests do not arrive, while others are refused."""
        self._next_check = None
        before = monotonic() - REQUEST_S
        for call in tuple(self._receiving):
            if call.since > before:
                break
            call.checks += 1
            if call.checks >= CHECKS_MAX:
                self._receiving.pop(call)
                call.end(_too_slow())
        self._checks_left -= 1
        if self._checks_left > 0:
            self._next_check = asyncio.get_running_loop().call_later(_CHECK_INTERVAL_S, self._end_late)

    def answered(self, call: int, connection: str) -> None:
        """Note that a call has been answered, and that its answer is unread."""
        self._answered[call] = monotonic(), connection

    def cancelled(self, call: ReceivingCall) -> None:
        """Note that a call was cancelled before its answer: by its client, or seldom by this server."""
        if monotonic() - call.since < EARLY_S:
            self.resets.reset(call.connection)

    def release(self, call: int, limits: tuple[FairLimit, ...], connection: str) -> None:
        """Note that an admitted call is over."""
        self._answered.pop(call, None)
        for limit in limits:
            limit.give_back(connection)

    def _end_unread(self) -> None:
        """End the connections on which an answer has not been read for long."""
        now = monotonic()
        if now - self._last_check < _UNREAD_CHECK_INTERVAL_S:
            return
        self._last_check = now
        for since, connection in self._answered.values():
            if since > now - UNREAD_S:
                break
            self.connections.end(connection)

    async def batch(self, call: ReceivingCall) -> tuple[bytes, Share]:
        """Receive the request of a BatchCreate, after there is room for it. Close the share at the end of the call.

        Raises:
            InvalidField: there is no request.
            Overloaded: there was no room in time.
        """
        connection = call.connection
        share = self._batches.share(connection, lambda: call.end(_too_slow()))
        raw = None
        try:
            await in_time(share.take(TRANSPORT_BYTES_MAX))
            share.unread_since = asyncio.get_running_loop().time()
            received = await call.context.read()
            share.unread_since = None
            if received is not grpc.aio.EOF:
                raw = received
                self.buffers.count_read(connection, len(raw))
        finally:
            if raw is None:
                share.close()
        if raw is None:
            raise InvalidField("request", "is missing")
        share.resize(share.held, BATCH_WEIGHT * len(raw))
        return raw, share


async def in_time(taking: Awaitable[None]) -> None:
    """Wait for room. Raises Overloaded after ``UNREAD_S``: the caller should then repeat the call."""
    try:
        async with asyncio.timeout(UNREAD_S):
            await taking
    except TimeoutError as error:
        raise Overloaded("there was no room for this call", RETRY_DELAY_S) from error


def _too_slow() -> Overloaded:
    return Overloaded("the request did not arrive while others waited", RETRY_DELAY_S)
