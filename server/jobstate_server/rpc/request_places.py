"""Places for requests that are being received: gRPC takes memory for the whole of a message as soon as it is read.

It does not say how large a message is before all of it has come, so each place is reckoned as large as gRPC lets a
message be, and there are few of them. Who waits for one has sent the first 64 KiB of the request meanwhile, which is
all of it as a rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from jobstate_server.domain.errors import InvalidField, JobStateError, Overloaded

RETRY_DELAY_S = 0.5

BODY_S = 1.0
"""Seconds after its headers for which a request may take to come while others wait for its place."""

LOOKS_MAX = 4
"""Looks that a request may have its place for, however late it got it: a fifth of a second, and longer when the loop is
late itself. What was sent while it waited is received in a few milliseconds."""

WAIT_S = 10.0
"""Seconds for which a call waits for a place."""

_LOOK_S = 0.05
"""Between two looks for requests that do not come."""

EndCall = Callable[[Any, "asyncio.Task[Any]", JobStateError], None]
"""Ends the call of a context, which a task serves, with an error."""


class ReceivingCall:
    """A call whose request is to be received."""

    __slots__ = ("connection", "context", "granted", "looks", "since", "task")

    connection: str
    context: Any
    task: asyncio.Task[Any] | None
    """What serves the call, while its request is received."""
    since: float
    """When its headers came."""
    looks: int
    """How often it was seen to have a place that others wait for."""
    granted: asyncio.Future[None] | None
    """Done when it gets its place; None when it had not to wait."""


class RequestPlaces:
    """Receives requests, a few at a time. Belongs on the event loop's thread.

    A place that becomes free goes to the connection on which the fewest calls wait, of several such to the latest, and
    there to the first call. So a client that makes a call at a time waits neither for those that make many nor for
    those whose requests ought to have come long ago.
    """

    def __init__(self, count: int, end_call: EndCall) -> None:
        self._count = count
        self._end_call = end_call
        self._receiving: dict[ReceivingCall, None] = {}
        self._waiting: dict[str, dict[ReceivingCall, None]] = {}
        """By connection; those that have waited longest first."""
        self._look: asyncio.TimerHandle | None = None

    async def receive(self, call: ReceivingCall) -> bytes:
        """The request of the call that the current task serves.

        Raises:
            InvalidField: there is none.
            Overloaded: no place became free for it.
        """
        call.task, call.since, call.looks = asyncio.current_task(), asyncio.get_running_loop().time(), 0
        try:
            if self._has_place(call.connection):
                self._receiving[call] = None
            else:
                await self._wait(call)
            raw = await call.context.read()
        finally:
            call.task = None
            self._receiving.pop(call, None)
            if self._waiting:
                self._wait_no_more(call)
                self._grant()
        if raw is grpc.aio.EOF:
            raise InvalidField("request", "is missing")
        request: bytes = raw
        return request

    def _has_place(self, connection: str) -> bool:
        """Whether there is a place for a call of this connection: it may have as many as are free."""
        taken = len(self._receiving)
        if taken <= (self._count - 1) // 2:
            return True
        held = sum(receiving.connection == connection for receiving in self._receiving)
        return held < self._count - taken

    async def _wait(self, receiving: ReceivingCall) -> None:
        loop = asyncio.get_running_loop()
        receiving.granted = loop.create_future()
        self._waiting.setdefault(receiving.connection, {})[receiving] = None
        if self._look is None:
            self._look = loop.call_later(_LOOK_S, self._end_stalled)
        await receiving.granted

    def _wait_no_more(self, receiving: ReceivingCall) -> None:
        waiting = self._waiting.get(receiving.connection)
        if waiting is not None and receiving in waiting:
            del waiting[receiving]
            if not waiting:
                del self._waiting[receiving.connection]

    def _grant(self) -> None:
        """Give a free place to one of those who wait."""
        latest_first = list(reversed(self._waiting))
        for connection in sorted(latest_first, key=self._waiting_on):
            if self._has_place(connection):
                receiving = next(iter(self._waiting[connection]))
                self._wait_no_more(receiving)
                self._receiving[receiving] = None
                _settle(receiving, None)
                return

    def _waiting_on(self, connection: str) -> int:
        return len(self._waiting[connection])

    def _end_stalled(self) -> None:
        """End the calls whose requests do not come while others wait, and those that have waited too long."""
        self._look = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for receiving in self._receiving:
            receiving.looks += 1
            if receiving.since <= now - BODY_S and receiving.looks >= LOOKS_MAX:
                assert receiving.task is not None
                self._end_call(receiving.context, receiving.task, _too_slow())
        for waiting in tuple(self._waiting.values()):
            for receiving in tuple(waiting):
                if receiving.since > now - WAIT_S:
                    break
                self._wait_no_more(receiving)
                _settle(receiving, Overloaded("there was no room for this call", RETRY_DELAY_S))
        self._look = loop.call_later(_LOOK_S, self._end_stalled)


def _settle(receiving: ReceivingCall, refusal: Overloaded | None) -> None:
    """Let a call that waits for its place go on. One that was cancelled meanwhile gives the place back by itself."""
    granted = receiving.granted
    assert granted is not None
    if granted.done():
        return
    if refusal is None:
        granted.set_result(None)
    else:
        granted.set_exception(refusal)


def _too_slow() -> Overloaded:
    return Overloaded("the request did not come while others waited for its place", RETRY_DELAY_S)
