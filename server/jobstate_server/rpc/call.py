"""One call from its headers to its end: let in, answered or refused, counted. The same for calls of every kind."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from jobstate_server.domain.caller import Caller
from jobstate_server.domain.errors import InternalError, JobStateError
from jobstate_server.rpc.admission import Admission
from jobstate_server.rpc.byte_budget import Share
from jobstate_server.rpc.errors import status_of
from jobstate_server.rpc.fair_limit import FairLimit
from jobstate_server.rpc.request_places import ReceivingCall

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(slots=True)
class Call:
    """What a handler is told of its call besides the request."""

    caller: Caller
    size: int
    """Bytes of the request."""


@dataclass(slots=True)
class StreamCall(Call):
    """What the handler of a stream is told besides."""

    connection: str
    """Names the connection, or what stands between, that the stream comes over."""
    end: Callable[[JobStateError], None]
    """Ends the stream with this error, also while the handler waits for the client to read."""
    unread: Share | None = None
    """What the stream's unread answers hold, where the handler bounds them by it."""


class CallsUnderWay:
    """Counts the calls whose handlers run."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """Count one more."""
        self._count += 1
        self._idle.clear()

    def end(self) -> None:
        """Count one less."""
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def none(self) -> None:
        """Wait until there are none. gRPC's stop returns before cancelled handlers have ended."""
        await self._idle.wait()


@dataclass(frozen=True, slots=True)
class Method:
    """A method as its calls are served."""

    under_way: CallsUnderWay
    admission: Admission
    limits: tuple[FairLimit, ...]
    """What its calls are counted by."""
    answer: Callable[[OpenCall, AsyncIterator[bytes], Context], Coroutine[Any, Any, Any]]
    """Receives the request and answers: with the bytes of a unary answer, or by writing to the context."""


class OpenCall(ReceivingCall):
    """One call. gRPC keeps it until the call is over, however it ends: so it counts the call."""

    __slots__ = ("_method",)

    request_streaming = True
    request_deserializer = response_serializer = None

    def __init__(self, method: Method) -> None:
        self._method = method
        self.connection = ""
        """What the call came over, once it has been let in."""

    async def _serve(self, requests: AsyncIterator[bytes], context: Context) -> Any:
        method = self._method
        method.under_way.begin()
        is_answered = False
        try:
            self.context, connection = context, context.peer()
            method.admission.let_in(method.limits, connection)
            self.connection = connection
            answer = await method.answer(self, requests, context)
        except Exception as error:
            await _refuse(context, error)
        else:
            is_answered = True
            return answer
        finally:
            self.context = None
            method.under_way.end()
            if not is_answered:
                # What gRPC keeps of a refusal leads back to this call, so it would only be freed by garbage collection.
                self._leave()

    def answered(self) -> None:
        """Take note that the answer is to be read from now on."""
        self._method.admission.answered(id(self), self.connection)

    def _leave(self) -> None:
        if self.connection:
            self._method.admission.leave(id(self), self._method.limits, self.connection)
            self.connection = ""

    def __del__(self) -> None:
        self._leave()


class UnaryCall(OpenCall):
    """A call with one request and one answer.

    It is callable and awaitable: gRPC asks of every handler, twice a call, whether it is asynchronous. What is
    awaitable is so at once; of a method it looks at the code, which costs a twentieth of a call.
    """

    __slots__ = ()

    response_streaming = False

    @property
    def stream_unary(self) -> UnaryCall:
        """Answers when it is called, as gRPC wants it."""
        return self

    def __call__(self, requests: AsyncIterator[bytes], context: Context) -> Coroutine[Any, Any, bytes]:
        """Answer."""
        return self._serve(requests, context)

    def __await__(self) -> Generator[None, None, NoReturn]:
        """Never called."""
        raise NotImplementedError


class StreamingCall(OpenCall):
    """A call that is answered by a stream."""

    __slots__ = ()

    response_streaming = True

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer."""
        await self._serve(requests, context)


def as_told(error: Exception) -> JobStateError:
    """What a caller is told of ``error``. What we did not foresee is logged, and told without its cause."""
    if isinstance(error, JobStateError):
        return error
    call_id = secrets.token_hex(8)
    log.error("a call failed", exc_info=error, extra={"call_id": call_id})
    return InternalError(call_id)


async def _refuse(context: Context, error: Exception) -> NoReturn:
    """End the call with the status of ``error``."""
    if isinstance(error, grpc.aio.AbortError | grpc.aio.BaseError):
        # The call is over already: refused by us, or gone at the other end.
        raise error
    await abort(context, as_told(error))


async def abort(context: Context, error: JobStateError) -> NoReturn:
    """End the call with the status of an error of ours. Raises AbortError, for gRPC."""
    try:
        await context.abort_with_status(rpc_status.to_status(status_of(error)))
    except grpc.aio.AbortError as aborted:
        # gRPC keeps this error with the call, and its traceback keeps the call: a circle, in which the call would stay
        # and be counted until the collector comes. Not at once, because the error is on its way through those frames.
        asyncio.get_running_loop().call_soon(_forget_frames, aborted)
        raise
    raise AssertionError("unreachable: abort_with_status raises")


def _forget_frames(error: BaseException) -> None:
    error.__traceback__ = error.__context__ = None
