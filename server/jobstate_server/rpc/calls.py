"""What every call has in common: limits, identity, parsing, errors. Services are registered through here.

Requests arrive as bytes and answers leave as bytes: the size of a request is checked here, where a refusal can carry
its ErrorInfo, and events and jobs go out as they were encoded when they were written.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from jobstate_server.domain.errors import InternalError, InvalidField, JobStateError, MessageTooLarge, Overloaded
from jobstate_server.rpc.errors import status_of
from jobstate_server.rpc.limits import CALLS_MAX, REQUEST_BYTES_MAX, STREAMS_MAX

log = logging.getLogger(__name__)

_RETRY_DELAY_S = 0.5

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(slots=True)
class Call:
    """What a handler is told of its call besides the request."""

    principal: str
    """Whose jobs these are. Empty until there are identities."""
    actor: str
    """Who is written down as having caused the change."""
    size: int
    """Bytes of the request."""

    @property
    def sees(self) -> str | None:
        """The principal whose jobs this call may see; None sees every job."""
        return self.principal or None


@dataclass(slots=True)
class StreamCall(Call):
    """What the handler of a stream of requests is told besides."""

    connection: str
    """Names the connection, or what stands between, that the stream comes over."""
    end: Callable[[JobStateError], None]
    """Ends the stream with this error, also while the handler waits for the client to read."""


Identify = Callable[[Context], tuple[str, str]]
"""Finds out (principal, actor) of a call, or raises what refuses it. It comes before everything else, so that whoever
may not call learns nothing about what exists."""


def anonymous(_context: Context) -> tuple[str, str]:
    """Nobody in particular: there are no identities yet."""
    return "", ""


class Calls:
    """Wraps handlers, and knows which calls are under way."""

    def __init__(self, identify: Identify = anonymous) -> None:
        self._identify = identify
        self._unary = 0
        self._streams = 0
        self._open = 0
        self._ending: set[asyncio.Task[None]] = set()
        """Streams ended by us whose clients have not read so yet."""
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until no call of ours is under way. gRPC's stop returns before cancelled handlers have ended."""
        await self._idle.wait()

    def _enter(self) -> None:
        self._open += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._open -= 1
        if not self._open:
            self._idle.set()

    def register(self, server: grpc.aio.Server, service: ServiceDescriptor, servicer: object) -> None:
        """Serve every method of ``service`` by the servicer's method of the same name."""
        handlers = {method.name: self._handler(method, getattr(servicer, method.name)) for method in service.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))

    def _handler(self, method: MethodDescriptor, handler: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
        request_type: type[Message] = GetMessageClass(method.input_type)
        if method.client_streaming:
            # Requests of a stream are parsed by the handler, which has to go on when one of them cannot be.
            return grpc.stream_stream_rpc_method_handler(self._stream_stream(handler))
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._unary_stream(handler, request_type))
        return grpc.unary_unary_rpc_method_handler(self._unary_unary(handler, request_type))

    def _call(self, context: Context, size: int) -> Call:
        principal, actor = self._identify(context)
        return Call(principal, actor, size)

    def _unary_unary(
        self, handler: Callable[[Any, Call], Awaitable[bytes]], request_type: type[Message]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def unary_unary(raw: bytes, context: Context) -> bytes:
            self._enter()
            self._unary += 1
            try:
                _refuse_too_many(self._unary, CALLS_MAX)
                call = self._call(context, len(raw))
                return await handler(parse(request_type, raw), call)
            except Exception as error:
                await _refuse(context, error)
            finally:
                self._unary -= 1
                self._leave()

        return unary_unary

    def _unary_stream(
        self, handler: Callable[[Any, Call], AsyncIterator[bytes]], request_type: type[Message]
    ) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        async def unary_stream(raw: bytes, context: Context) -> AsyncIterator[bytes]:
            self._enter()
            try:
                call = self._call(context, len(raw))
                async for response in handler(parse(request_type, raw), call):
                    yield response
            except Exception as error:
                await _refuse(context, error)
            finally:
                self._leave()

        return unary_stream

    def _stream_stream(
        self, handler: Callable[[AsyncIterator[bytes], StreamCall], AsyncIterator[bytes]]
    ) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
        async def stream_stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            self._enter()
            self._streams += 1
            try:
                _refuse_too_many(self._streams, STREAMS_MAX)
                async for response in handler(requests, self._stream_call(context)):
                    yield response
            except Exception as error:
                await _refuse(context, error)
            finally:
                self._streams -= 1
                self._leave()

        return stream_stream

    def _stream_call(self, context: Context) -> StreamCall:
        principal, actor = self._identify(context)
        task = asyncio.current_task()
        assert task is not None

        def end(error: JobStateError) -> None:
            # The status goes out behind what the client has not read; nobody here waits for that.
            ending = asyncio.create_task(_end(context, error))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            task.cancel()

        return StreamCall(principal, actor, 0, context.peer(), end)


async def _end(context: Context, error: JobStateError) -> None:
    # Refusing raises, here in a task where nobody is left to tell.
    with suppress(grpc.aio.AbortError, grpc.aio.BaseError):
        await context.abort_with_status(rpc_status.to_status(status_of(error)))


def _refuse_too_many(count: int, count_max: int) -> None:
    if count > count_max:
        raise Overloaded(f"{count_max} such calls are under way; repeat the call later", _RETRY_DELAY_S)


def parse(request_type: type[Message], raw: bytes) -> Message:
    """The request in these bytes.

    Raises:
        MessageTooLarge: there are too many of them.
        InvalidField: they are not such a message.
    """
    if len(raw) > REQUEST_BYTES_MAX:
        raise MessageTooLarge(len(raw), REQUEST_BYTES_MAX)
    try:
        return request_type.FromString(raw)
    except DecodeError as error:
        raise InvalidField("request", f"is not an encoded {request_type.DESCRIPTOR.full_name}") from error


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
    await context.abort_with_status(rpc_status.to_status(status_of(as_told(error))))
    raise AssertionError("unreachable: abort_with_status raises")
