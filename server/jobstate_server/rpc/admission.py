"""Which calls are let in, decided at their headers: before a request comes and before an answer is prepared.

gRPC begins to receive the request of a unary call before any code of ours runs, and the request of a stream only when
its handler reads. So a few unary calls whose request has not come are left to gRPC. All others are served as streams
of one request, which is read once there is room for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from jobstate_server.domain.errors import InvalidField, JobStateError, Overloaded
from jobstate_server.rpc.byte_budget import ByteBudget, Share
from jobstate_server.rpc.limits import BATCH_WEIGHT, TRANSPORT_BYTES_MAX, UNREAD_S

BODY_S = 2.0
"""How long a request other than a batch may take to come while others wait for its place: it has some KiB."""

RETRY_DELAY_S = 0.5

Refuse = Callable[[Any, Exception], Awaitable[None]]
"""Ends the call of a context with an error."""


class Admission:
    """The calls that are open, and the room for requests. Belongs on the event loop's thread."""

    def __init__(self, requests_bytes_max: int) -> None:
        """Three eighths of the bytes are for what gRPC receives by itself, two for other requests, three for batches.

        All of them are reckoned as large as gRPC lets them be until they have come.
        """
        eighth = requests_bytes_max // 8
        self.calls = 0
        """Unary calls that are open: until their answer has been read."""
        self.streams = 0
        self.unseen = 0
        """Unary calls whose request gRPC receives by itself and which has not come."""
        self.unseen_max = max(1, 3 * eighth // TRANSPORT_BYTES_MAX)
        self._requests = ByteBudget(2 * eighth, 2 * eighth // 4, BODY_S)
        self._batches = ByteBudget(3 * eighth, 3 * eighth // 4)

    @property
    def has_room(self) -> bool:
        """Whether gRPC may receive another request by itself."""
        return self.unseen < self.unseen_max

    async def request(
        self, requests: AsyncIterator[bytes], connection: str, end: Callable[[JobStateError], None], *, is_batch: bool
    ) -> tuple[bytes, Share]:
        """Read the one request of a call, once there is room for it. The share is to be closed with the call.

        Raises:
            InvalidField: there is none.
        """
        share = (self._batches if is_batch else self._requests).share(connection, lambda: end(_too_slow()))
        raw = None
        try:
            await in_time(share.take(TRANSPORT_BYTES_MAX))
            share.unread_since = asyncio.get_running_loop().time()
            raw = await anext(aiter(requests), None)
            share.unread_since = None
        finally:
            if raw is None:
                share.close()
        if raw is None:
            raise InvalidField("request", "is missing")
        share.resize(share.held, BATCH_WEIGHT * len(raw) if is_batch else 0)
        return raw, share


async def in_time(taking: Awaitable[None]) -> None:
    """Wait for room. Raises Overloaded when there is none for so long that the caller had better repeat the call."""
    try:
        async with asyncio.timeout(UNREAD_S):
            await taking
    except TimeoutError as error:
        raise Overloaded("there was no room for this call", RETRY_DELAY_S) from error


def _too_slow() -> Overloaded:
    return Overloaded("the request did not come while others waited for its place", RETRY_DELAY_S)


class _Rpc:
    """The handler of one call. gRPC keeps it until the call is over, however it ends, and so it counts the call."""

    __slots__ = ("_admission", "_answer")

    request_streaming = response_streaming = False
    request_deserializer = response_serializer = None

    def __init__(self, admission: Admission, answer: Any) -> None:
        self._admission = admission
        self._answer = answer


class Unseen(_Rpc):
    """A unary call whose request gRPC receives by itself."""

    __slots__ = ("_has_come",)

    def __init__(self, admission: Admission, answer: Any) -> None:
        super().__init__(admission, answer)
        self._has_come = False
        admission.calls += 1
        admission.unseen += 1

    async def unary_unary(self, raw: bytes, context: Any) -> bytes:
        """Answer."""
        self._has_come = True
        self._admission.unseen -= 1
        answer: bytes = await self._answer(raw, None, context)
        return answer

    def __del__(self) -> None:
        # A call that is cancelled before its request has come never reaches its handler.
        admission = self._admission
        admission.calls -= 1
        if not self._has_come:
            admission.unseen -= 1


class Read(_Rpc):
    """A unary call whose request is read once there is room."""

    __slots__ = ()

    request_streaming = True

    def __init__(self, admission: Admission, answer: Any) -> None:
        super().__init__(admission, answer)
        admission.calls += 1

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Answer."""
        answer: bytes = await self._answer(None, requests, context)
        return answer

    def __del__(self) -> None:
        self._admission.calls -= 1


class Stream(_Rpc):
    """A call that is answered by a stream."""

    __slots__ = ()

    request_streaming = response_streaming = True

    def __init__(self, admission: Admission, answer: Any) -> None:
        super().__init__(admission, answer)
        admission.streams += 1

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer."""
        async for response in self._answer(requests, context):
            yield response

    def __del__(self) -> None:
        self._admission.streams -= 1


class Refused:
    """A call that is refused at its headers."""

    request_streaming = True
    request_deserializer = response_serializer = None

    def __init__(self, error: JobStateError, refuse: Refuse, *, is_stream: bool) -> None:
        self.response_streaming = is_stream
        self._error = error
        self._refuse = refuse

    async def stream_unary(self, _requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Refuse."""
        await self._refuse(context, self._error)
        return b""

    async def stream_stream(self, _requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Refuse."""
        await self._refuse(context, self._error)
        yield b""
