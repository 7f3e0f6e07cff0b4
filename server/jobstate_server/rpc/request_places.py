"""Places for requests that are being received: gRPC takes memory for the whole of a message as soon as it is read.

It does not say how large a message is before all of it has come, so each place is reckoned as large as gRPC lets a
message be, and there are few of them. Who waits for one has sent the first 64 KiB of the request meanwhile, which is
all of it as a rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from jobstate_server.domain.errors import InvalidField, JobStateError, Overloaded

RETRY_DELAY_S = 0.5

BODY_S = 1.0
"""Seconds after its headers for which a request may take to come while others wait for its place."""

LOOKS_MAX = 3
"""Looks that a request may have its place for, however late it got it: a tenth of a second, and longer when the loop is
late itself. What was sent while it waited is received in a few milliseconds."""

WAIT_S = 10.0
"""Seconds for which a call waits for a place."""

_LOOK_S = 0.05
"""Between two looks for requests that do not come."""

EndCall = Callable[[Any, "asyncio.Task[Any]", JobStateError], None]
"""Ends the call of a context, which a task serves, with an error."""


@dataclass(slots=True, eq=False)
class _Receiving:
    """A call whose request is being received, or waits for a place."""

    connection: str
    context: Any
    since: float
    """When its headers came."""
    looks: int = 0
    """How often it was seen to have a place that others wait for."""
    granted: asyncio.Future[None] | None = None
    """Done when it gets its place; None when it had not to wait."""


class RequestPlaces:
    """Receives requests, a few at a time. Belongs on the event loop's thread."""

    def __init__(self, count: int, end_call: EndCall) -> None:
        self._count = count
        self._end_call = end_call
        self._receiving: dict[asyncio.Task[Any], _Receiving] = {}
        self._waiting: dict[asyncio.Task[Any], _Receiving] = {}
        """Those that have waited longest first."""
        self._look: asyncio.TimerHandle | None = None

    async def receive(self, context: Any, connection: str) -> bytes:
        """The request of the call that the current task serves.

        Raises:
            InvalidField: there is none.
            Overloaded: no place became free for it.
        """
        task = asyncio.current_task()
        assert task is not None
        now = asyncio.get_running_loop().time()
        receiving = _Receiving(connection, context, now)
        try:
            if self._has_place(connection):
                self._receiving[task] = receiving
            else:
                await self._wait(task, receiving)
            raw = await context.read()
        finally:
            self._receiving.pop(task, None)
            if self._waiting:
                self._waiting.pop(task, None)
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
        held = sum(receiving.connection == connection for receiving in self._receiving.values())
        return held < self._count - taken

    async def _wait(self, task: asyncio.Task[Any], receiving: _Receiving) -> None:
        loop = asyncio.get_running_loop()
        receiving.granted = loop.create_future()
        self._waiting[task] = receiving
        if self._look is None:
            self._look = loop.call_later(_LOOK_S, self._end_stalled)
        await receiving.granted

    def _grant(self) -> None:
        """Give free places to those who wait, the latest first: the requests of the others ought to have come."""
        for task, receiving in reversed(self._waiting.items()):
            granted = receiving.granted
            assert granted is not None
            if granted.done() or not self._has_place(receiving.connection):
                continue
            del self._waiting[task]
            self._receiving[task] = receiving
            granted.set_result(None)
            return

    def _end_stalled(self) -> None:
        """End the calls whose requests do not come while others wait, and those that have waited too long."""
        self._look = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, receiving in tuple(self._receiving.items()):
            receiving.looks += 1
            if receiving.since <= now - BODY_S and receiving.looks >= LOOKS_MAX:
                self._end_call(receiving.context, task, _too_slow())
        for receiving in tuple(self._waiting.values()):
            if receiving.since > now - WAIT_S:
                break
            if receiving.granted is not None and not receiving.granted.done():
                receiving.granted.set_exception(Overloaded("there was no room for this call", RETRY_DELAY_S))
        self._look = loop.call_later(_LOOK_S, self._end_stalled)


def _too_slow() -> Overloaded:
    return Overloaded("the request did not come while others waited for its place", RETRY_DELAY_S)
