"""Places for requests that are being received: gRPC takes memory for a whole message as soon as the server reads it.

It does not say how large a message is before all of it has arrived. So each place counts as much memory as the largest
message that gRPC accepts, and there are few places. While a call waits for a place, the client can send the first 64
KiB of the request, which usually is all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from jobstate_server.domain.errors import JobStateError, Overloaded

RETRY_DELAY_S = 0.5

BODY_S = 1.0
"""Seconds after its headers in which a request must arrive while others wait for its place."""

CHECKS_MAX = 4
"""Checks during which a request may keep its place, however late it got it: a fifth of a second, and longer if the loop
is late. A request that was sent while the call waited is received in a few milliseconds."""

WAIT_S = 10.0
"""Seconds for which a call waits for a place."""

_CHECK_INTERVAL_S = 0.05
"""Seconds between two checks for requests that do not arrive."""

EndCall = Callable[[Any, "asyncio.Task[Any]", JobStateError], None]
"""Ends the call of this context and task with an error."""


class ReceivingCall:
    """A call whose request has to be received."""

    __slots__ = ("checks", "connection", "context", "granted", "since", "task")

    connection: str
    context: Any
    task: asyncio.Task[Any] | None
    """The task that serves the call, while its request is received."""
    since: float
    """When its headers arrived."""
    checks: int
    """How many checks found it in a place while others waited."""
    granted: asyncio.Future[None] | None
    """Done when the call gets its place. None if it did not have to wait."""


class RequestPlaces:
    """Receives requests, a few at a time. Call it on the event loop's thread.

    A free place goes to the connection on which the fewest calls wait. Among equals it goes to the connection that
    began to wait last, and there to the first call. So a client that makes one call at a time waits neither for clients
    that make many calls nor for those whose requests are long overdue.
    """

    def __init__(self, count: int, end_call: EndCall) -> None:
        self._count = count
        self._unconditional = (count - 1) // 2 + 1
        """With fewer places taken, any call gets one."""
        self._end_call = end_call
        self._receiving: dict[ReceivingCall, None] = {}
        self._waiting: dict[str, dict[ReceivingCall, None]] = {}
        """By connection. Those that have waited longest come first."""
        self._next_check: asyncio.TimerHandle | None = None

    def reading(self, call: ReceivingCall) -> Awaitable[Any]:
        """Reads the request of the call that the current task serves, or EOF. Call ``give_back`` after it, in any case.

        Raises (through the result):
            Overloaded: the call got no place in time.
        """
        call.task, call.since, call.checks = asyncio.current_task(), monotonic(), 0
        # No coroutine of ours comes between where there is room, as for nearly every call.
        if len(self._receiving) < self._unconditional or self._has_place(call.connection):
            self._receiving[call] = None
            reading: Awaitable[Any] = call.context.read()
            return reading
        return self._wait_and_read(call)

    def give_back(self, call: ReceivingCall) -> None:
        """Free the place of a call whose request has been read, or will not be read."""
        call.task = None
        self._receiving.pop(call, None)
        if self._waiting:
            self._stop_waiting(call)
            self._grant()

    async def _wait_and_read(self, call: ReceivingCall) -> Any:
        await self._wait(call)
        return await call.context.read()

    def _has_place(self, connection: str) -> bool:
        """Whether a call of this connection gets a place: a connection may have as many places as are free."""
        taken = len(self._receiving)
        if taken < self._unconditional:
            return True
        held = sum(receiving.connection == connection for receiving in self._receiving)
        return held < self._count - taken

    async def _wait(self, receiving: ReceivingCall) -> None:
        loop = asyncio.get_running_loop()
        receiving.granted = loop.create_future()
        self._waiting.setdefault(receiving.connection, {})[receiving] = None
        if self._next_check is None:
            self._next_check = loop.call_later(_CHECK_INTERVAL_S, self._end_stalled)
        await receiving.granted

    def _stop_waiting(self, receiving: ReceivingCall) -> None:
        waiting = self._waiting.get(receiving.connection)
        if waiting is not None and receiving in waiting:
            del waiting[receiving]
            if not waiting:
                del self._waiting[receiving.connection]

    def _grant(self) -> None:
        """Give a free place to a waiting call."""
        latest_first = list(reversed(self._waiting))
        for connection in sorted(latest_first, key=self._waiting_count):
            if self._has_place(connection):
                receiving = next(iter(self._waiting[connection]))
                self._stop_waiting(receiving)
                self._receiving[receiving] = None
                _resolve(receiving, None)
                return

    def _waiting_count(self, connection: str) -> int:
        return len(self._waiting[connection])

    def _end_stalled(self) -> None:
        """End the calls whose requests do not arrive while others wait, and those that have waited too long."""
        self._next_check = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now = monotonic()
        for receiving in self._receiving:
            receiving.checks += 1
            if receiving.since <= now - BODY_S and receiving.checks >= CHECKS_MAX:
                assert receiving.task is not None
                self._end_call(receiving.context, receiving.task, _too_slow())
        for waiting in tuple(self._waiting.values()):
            for receiving in tuple(waiting):
                if receiving.since > now - WAIT_S:
                    break
                self._stop_waiting(receiving)
                _resolve(receiving, Overloaded("there was no room for this call", RETRY_DELAY_S))
        self._next_check = loop.call_later(_CHECK_INTERVAL_S, self._end_stalled)


def _resolve(receiving: ReceivingCall, refusal: Overloaded | None) -> None:
    """Wake a call that waits for its place, with the refusal if any. A cancelled call gives the place back itself."""
    granted = receiving.granted
    assert granted is not None
    if granted.done():
        return
    if refusal is None:
        granted.set_result(None)
    else:
        granted.set_exception(refusal)


def _too_slow() -> Overloaded:
    return Overloaded("the request did not arrive while others waited for its place", RETRY_DELAY_S)
