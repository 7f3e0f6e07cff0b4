"""What every call has in common: limits, identity, parsing, errors. Services are registered through here.

Requests arrive as bytes and answers leave as bytes: the size of a request is checked here, where a refusal can carry
its ErrorInfo, and events and jobs go out as they were encoded when they were written.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from jobstate_server.domain.errors import InternalError, InvalidField, JobStateError, MessageTooLarge
from jobstate_server.rpc.admission import Admission, Stream, Unary, in_time
from jobstate_server.rpc.byte_budget import ByteBudget, Share
from jobstate_server.rpc.errors import status_of
from jobstate_server.rpc.limits import (
    ANSWERS_BYTES_MAX,
    OPEN_STREAMS_MAX,
    REQUEST_BYTES_MAX,
    REQUESTS_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    UNREAD_S,
)

log = logging.getLogger(__name__)

ANSWER_BYTES_COUNTED = 8 * 1024
"""An answer, smaller ones are not counted: those of all calls that may be open have 16 MiB."""

ANSWER_BYTES_RESERVED = 192 * 1024
"""What an answer is reckoned at before it is known, once half of their room is taken: one with the largest job."""

_RESERVED = {"List": RESPONSE_BYTES_MAX, "GetStats": RESPONSE_BYTES_MAX}
"""By method: answers that are large as a rule."""

_BATCH = "BatchCreate"
"""The method whose requests are large as a rule."""

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
    unread: Share | None = None
    """What the stream's unread answers hold, where the handler bounds them by it."""


Identify = Callable[[Context], tuple[str, str]]
"""Finds out (principal, actor) of a call, or raises what refuses it. It comes before everything else, so that whoever
may not call learns nothing about what exists."""


def anonymous(_context: Context) -> tuple[str, str]:
    """Nobody in particular: there are no identities yet."""
    return "", ""


class Calls:
    """Wraps handlers, lets calls in, and knows which are under way."""

    def __init__(
        self,
        identify: Identify = anonymous,
        *,
        open_streams_max: int = OPEN_STREAMS_MAX,
        requests_bytes_max: int = REQUESTS_BYTES_MAX,
    ) -> None:
        self._identify = identify
        self.admission = Admission(requests_bytes_max, open_streams_max, self._end_call)
        self.answers = ByteBudget(ANSWERS_BYTES_MAX, ANSWERS_BYTES_MAX // 4, UNREAD_S)
        """Answers that have not been read."""
        self._open = 0
        self._ending: set[asyncio.Task[None]] = set()
        """Calls ended by us whose clients have not read so yet."""
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
        admit = {
            f"/{service.full_name}/{method.name}": self._admit(method, getattr(servicer, method.name))
            for method in service.methods
        }
        server.add_generic_rpc_handlers((_Service(admit),))

    def _admit(self, method: MethodDescriptor, handler: Callable[..., Any]) -> Callable[[], Any]:
        """Makes the handler of each call of a method, when its headers have come."""
        request_type: type[Message] = GetMessageClass(method.input_type)
        if method.client_streaming:
            # Requests of a stream are parsed by the handler, which has to go on when one of them cannot be.
            return partial(Stream, self.admission, self._stream_stream(handler))
        if method.server_streaming:
            return partial(Stream, self.admission, self._unary_stream(handler, request_type))
        is_batch = method.name == _BATCH
        answer = self._unary_unary(handler, request_type, is_batch=is_batch, reserve=_RESERVED.get(method.name, 0))
        return partial(Unary, self.admission, answer)

    def _call(self, context: Context, size: int) -> Call:
        principal, actor = self._identify(context)
        return Call(principal, actor, size)

    def _unary_unary(
        self,
        handler: Callable[[Any, Call], Awaitable[bytes]],
        request_type: type[Message],
        *,
        is_batch: bool,
        reserve: int,
    ) -> Callable[[Unary, Context], Coroutine[Any, Any, bytes]]:
        answers, admission = self.answers, self.admission

        async def unary_unary(unary: Unary, context: Context) -> bytes:
            self._enter()
            batch_share = share = None
            try:
                connection = context.peer()
                unary.let_in(connection)
                if is_batch:
                    raw, batch_share = await admission.batch(context, connection, self._ender(context))
                else:
                    raw = await admission.requests.receive(context, connection)
                reserved = reserve or (ANSWER_BYTES_RESERVED if answers.is_tight else 0)
                if reserved:
                    # What nobody would read is not prepared.
                    share = self._answer_share(context)
                    await in_time(share.take(reserved))
                call = self._call(context, len(raw))
                answer = await handler(parse(request_type, raw), call)
                if share is not None or len(answer) > ANSWER_BYTES_COUNTED:
                    share = share or self._answer_share(context)
                    share.resize(reserved, len(answer))
                    share.unread_since = asyncio.get_running_loop().time()
                unary.answered()
            except Exception as error:
                await _refuse(context, error)
            else:
                return answer
            finally:
                if batch_share is not None:
                    batch_share.close()
                self._leave()

        return unary_unary

    def _answer_share(self, context: Context) -> Share:
        """What an answer of this call holds until it has been read."""
        peer = context.peer()
        share = self.answers.share(peer, lambda: self.admission.connections.end(peer))
        # Its type says that it is told a context of other types.
        context.add_done_callback(cast("Any", lambda _context: share.close()))
        return share

    def _unary_stream(
        self, handler: Callable[[Any, StreamCall], AsyncIterator[bytes]], request_type: type[Message]
    ) -> Callable[[Stream, AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
        async def unary_stream(
            stream: Stream, _requests: AsyncIterator[bytes], context: Context
        ) -> AsyncIterator[bytes]:
            self._enter()
            try:
                call = self._stream_call(context)
                stream.let_in(call.connection)
                raw = await self.admission.requests.receive(context, call.connection)
                call.size, call.unread = len(raw), self._answer_share(context)
                responses = handler(parse(request_type, raw), call)
                # A watch lasts for days, and its request may be large.
                del raw
                async for response in responses:
                    yield response
            except Exception as error:
                await _refuse(context, error)
            finally:
                self._leave()

        return unary_stream

    def _stream_stream(
        self, handler: Callable[[AsyncIterator[bytes], StreamCall], AsyncIterator[bytes]]
    ) -> Callable[[Stream, AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
        async def stream_stream(
            stream: Stream, requests: AsyncIterator[bytes], context: Context
        ) -> AsyncIterator[bytes]:
            self._enter()
            try:
                call = self._stream_call(context)
                stream.let_in(call.connection, updates=True)
                async for response in handler(requests, call):
                    yield response
            except Exception as error:
                await _refuse(context, error)
            finally:
                self._leave()

        return stream_stream

    def _stream_call(self, context: Context) -> StreamCall:
        principal, actor = self._identify(context)
        return StreamCall(principal, actor, 0, context.peer(), self._ender(context))

    def _ender(self, context: Context) -> Callable[[JobStateError], None]:
        """What ends this call with an error, also while its handler waits for the client."""
        task = asyncio.current_task()
        assert task is not None
        return partial(self._end_call, context, task)

    def _end_call(self, context: Context, task: asyncio.Task[Any], error: JobStateError) -> None:
        # The status goes out behind what the client has not read; nobody here waits for that.
        ending = asyncio.create_task(self._end(context, error))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        task.cancel()

    async def _end(self, context: Context, error: JobStateError) -> None:
        connection = context.peer()
        try:
            # Refusing raises, here in a task where nobody is left to tell.
            with suppress(grpc.aio.AbortError, grpc.aio.BaseError):
                async with asyncio.timeout(UNREAD_S):
                    await context.abort_with_status(rpc_status.to_status(status_of(error)))
        except TimeoutError:
            self.admission.connections.end(connection)


class _Service(grpc.GenericRpcHandler):
    """Finds a method by its name."""

    def __init__(self, admit: dict[str, Callable[[], Any]]) -> None:
        self._admit = admit

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call whose headers have come, None when there is no such method here."""
        admit = self._admit.get(handler_call_details.method)
        return None if admit is None else admit()


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
