"""One call from its headers to its end: admitted or refused, counted, answered. The same for calls of every kind."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass
from time import monotonic
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from jobstate_server.domain.caller import Caller
from jobstate_server.domain.errors import InternalError, JobStateError
from jobstate_server.rpc.admission import Admission, ReceivingCall
from jobstate_server.rpc.byte_budget import Share
from jobstate_server.rpc.errors import status_of
from jobstate_server.rpc.fair_limit import FairLimit
from jobstate_server.rpc.transport_limits import UNREAD_S

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(slots=True)
class Call:
    """What a handler gets besides the request."""

    caller: Caller
    size: int
    """Bytes of the request."""
    connection: str
    """The peer of the connection on which the call arrived: the client or a proxy."""


@dataclass(slots=True)
class StreamCall(Call):
    """What the handler of a stream gets besides."""

    end: Callable[[JobStateError], None]
    """Ends the stream with this error, also while the handler waits for the client to read. It may be over already."""
    count_read: Callable[[int], object] = lambda _size: None
    """Counts bytes of requests that the handler has read and found room for."""
    unread: Share | None = None
    """The bytes of the stream's unread answers, if the handler limits them."""


class CallsUnderWay:
    """Counts the calls whose handlers are running."""

    def __init__(self) -> None:
        self._count = 0
        self._idle: asyncio.Event | None = None
        """Set when none is running. None unless somebody waits for that."""

    def begin(self) -> None:
        """Count one more."""
        self._count += 1

    def end(self) -> None:
        """Count one less."""
        self._count -= 1
        if self._idle is not None and not self._count:
            self._idle.set()

    async def none(self) -> None:
        """Wait until there are none. gRPC's stop returns before cancelled handlers have ended."""
        while self._count:
            if self._idle is None or self._idle.is_set():
                self._idle = asyncio.Event()
            await self._idle.wait()


@dataclass(frozen=True, slots=True)
class Method:
    """What the calls of a method have in common."""

    under_way: CallsUnderWay
    admission: Admission
    limits: tuple[FairLimit, ...]
    """The limits in which its calls count."""
    answer: Callable[[OpenCall, AsyncIterator[bytes], Context], Coroutine[Any, Any, Any]]
    """Receives the request and answers it: it returns the bytes of a unary answer, or writes to the context."""


class OpenCall(ReceivingCall):
    """One call. It counts in the limits until gRPC drops it, which is when the call is over, however it ends.

    Its context is used only while its handler runs: by the handler, and by tasks that end before it does. gRPC frees
    its part of a call when the handler has returned and the client is gone, and does not check that it is there. The
    process would crash.
    """

    __slots__ = ("_error", "_method")

    request_streaming = True
    response_streaming: bool
    request_deserializer = response_serializer = None

    def __init__(self, method: Method) -> None:
        self._method = method
        self.connection = ""
        """The connection on which the call arrived. Empty until it is admitted."""
        self.task = None
        self._error: JobStateError | None = None
        """With what this server ends the call. None if it does not."""

    def end(self, error: JobStateError) -> None:
        """End the call with this error, also while its handler waits for the client. No effect when it is over."""
        if self.task is not None and self._error is None:
            self._error = error
            self.task.cancel()

    async def _serve(self, requests: AsyncIterator[bytes], context: Context) -> Any:
        method = self._method
        connection = context.peer()
        method.under_way.begin()
        is_answered = False
        try:
            self.context, self.task, self.since = context, asyncio.current_task(), monotonic()
            method.admission.admit(method.limits, connection)
            self.connection = connection
            answer = await method.answer(self, requests, context)
        except Exception as error:
            await _refuse(context, error)
        except asyncio.CancelledError:
            if self._error is None:
                method.admission.cancelled(self)
                raise
        else:
            is_answered = True
            method.admission.resets.answered(connection)
            if not self.response_streaming:
                method.admission.answered(id(self), connection)
            return answer
        finally:
            self.context = self.task = None
            method.under_way.end()
            if not is_answered:
                # gRPC's record of a refusal refers to this call, which only the garbage collector would free.
                self._release()
        return await self._send_end(context, connection)

    async def _send_end(self, context: Context, connection: str) -> NoReturn:
        """Send the status of a call that this server ends. The handler has been cancelled, and nothing is counted.

        The status comes after what the client has not read yet. If it does not read that, its connection is closed.
        """
        assert self._error is not None
        try:
            async with asyncio.timeout(UNREAD_S):
                await abort(context, self._error)
        except TimeoutError:
            self._method.admission.connections.end(connection)
        except grpc.aio.AbortError:
            raise
        except grpc.aio.BaseError:
            # The client is gone, or a refusal was on its way.
            pass
        raise asyncio.CancelledError

    def _release(self) -> None:
        if self.connection:
            self._method.admission.release(id(self), self._method.limits, self.connection)
            self.connection = ""

    def __del__(self) -> None:
        if self.connection:
            self._release()


class UnaryCall(OpenCall):
    """A call with one request and one answer.

    It is callable and awaitable, because gRPC checks twice for every call whether the handler is asynchronous. An
    awaitable object passes at once. For a method it inspects the code, which takes a twentieth of the time of a call.
    """

    __slots__ = ()

    response_streaming = False

    @property
    def stream_unary(self) -> UnaryCall:
        """The handler that gRPC calls, which is this object."""
        return self

    __call__ = OpenCall._serve

    def __await__(self) -> Generator[None, None, NoReturn]:
        """Never called."""
        raise NotImplementedError


class StreamingCall(OpenCall):
    """A call that is answered with a stream."""

    __slots__ = ()

    response_streaming = True

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer."""
        await self._serve(requests, context)


def public_error(error: Exception) -> JobStateError:
    """The error that the caller gets for ``error``. Unexpected errors are logged, and the caller does not see them."""
    if isinstance(error, JobStateError):
        return error
    call_id = secrets.token_hex(8)
    log.error("a call failed", exc_info=error, extra={"call_id": call_id})
    return InternalError(call_id)


async def _refuse(context: Context, error: Exception) -> NoReturn:
    """End the call with the status of ``error``."""
    if isinstance(error, grpc.aio.AbortError | grpc.aio.BaseError):
        # The call is over: it was refused, or the client has cancelled it or disconnected.
        raise error
    await abort(context, public_error(error))


async def abort(context: Context, error: JobStateError) -> NoReturn:
    """End the call with the status of ``error``. Raises AbortError, which gRPC expects."""
    try:
        await context.abort_with_status(rpc_status.to_status(status_of(error)))
    except grpc.aio.AbortError as aborted:
        # gRPC stores this error with the call, and its traceback refers to the call. In that cycle the call would
        # exist, and count, until the next garbage collection. Not at once: the error still passes through the frames.
        asyncio.get_running_loop().call_soon(_forget_frames, aborted)
        raise
    raise AssertionError("unreachable: abort_with_status raises")


def _forget_frames(error: BaseException) -> None:
    error.__traceback__ = error.__context__ = None
