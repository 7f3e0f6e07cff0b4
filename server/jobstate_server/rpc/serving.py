"""How the calls of each kind are served: how a request is received, parsed and answered.

Requests and answers are bytes. The size of a request is checked here, so that the refusal can have an ErrorInfo. Events
and jobs are sent as they were encoded when they were written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from jobstate_server.domain.caller import ANONYMOUS, Caller
from jobstate_server.domain.errors import InvalidField, MessageTooLarge, Overloaded
from jobstate_server.domain.limits import REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX
from jobstate_server.rpc.admission import RETRY_DELAY_S, Admission, in_time
from jobstate_server.rpc.byte_budget import ByteBudget, Share
from jobstate_server.rpc.call import (
    Call,
    CallsUnderWay,
    Context,
    Method,
    OpenCall,
    StreamCall,
    StreamingCall,
    UnaryCall,
)
from jobstate_server.rpc.fair_limit import FairLimit
from jobstate_server.rpc.receive_buffers import ReceiveBuffers
from jobstate_server.rpc.transport_limits import (
    ANSWERS_BYTES_MAX,
    MEMORY_SHORT,
    OPEN_STREAMS_MAX,
    REQUESTS_BYTES_MAX,
    STREAM_BYTES,
)

ANSWER_BYTES_COUNTED = 8 * 1024
"""Smaller answers are not counted: those of all calls that may be open have 16 MiB together."""

ANSWER_BYTES_RESERVED = 192 * 1024
"""The assumed size of an answer before it is known, once half of the room is taken: one with the largest job."""

_RESERVED = {"List": RESPONSE_BYTES_MAX, "GetStats": RESPONSE_BYTES_MAX}
"""The assumed size by method, for methods whose answers are usually large."""

_BATCH = "BatchCreate"
"""The method whose requests are usually large."""

_WAITS = "Acquire"
"""The method whose calls wait, as long as streams are open. They count among those."""

Answer = Callable[[OpenCall, AsyncIterator[bytes], Context], Coroutine[Any, Any, Any]]
"""Receives the request of a call and answers it."""

PlainHandler = Callable[[bytes, Any], Awaitable[Any]]
"""Answers a call whose request is given as bytes."""

Identify = Callable[[Context], Caller]
"""Identifies the caller, or raises an error that refuses the call. It runs before everything else, so that a caller
without access learns nothing about what exists."""


def anonymous(_context: Context) -> Caller:
    """The anonymous caller: there are no identities yet."""
    return ANONYMOUS


class Calls:
    """Wraps handlers, admits calls, and counts those that are running."""

    def __init__(
        self,
        identify: Identify = anonymous,
        *,
        open_streams_max: int = OPEN_STREAMS_MAX,
        requests_bytes_max: int = REQUESTS_BYTES_MAX,
        cache_bytes: int = 0,
    ) -> None:
        self._identify = identify
        memory_short = MEMORY_SHORT + cache_bytes + requests_bytes_max + open_streams_max * STREAM_BYTES
        self.admission = Admission(requests_bytes_max, open_streams_max, memory_short)
        self.answers = ByteBudget(ANSWERS_BYTES_MAX, ANSWERS_BYTES_MAX // 4, reserve=ANSWERS_BYTES_MAX // 4)
        """The answers that have not been read."""
        self.under_way = CallsUnderWay()

    def register(self, server: grpc.aio.Server, service: ServiceDescriptor, servicer: object) -> None:
        """Serve every method of ``service`` with the servicer's method of the same name."""
        new_call = {
            f"/{service.full_name}/{method.name}": self._new_call(method, getattr(servicer, method.name))
            for method in service.methods
        }
        server.add_generic_rpc_handlers((_Service(new_call),))

    def register_plain(
        self,
        server: grpc.aio.Server,
        service: str,
        unary: Mapping[str, PlainHandler],
        streaming: Mapping[str, PlainHandler],
        limit: FairLimit,
    ) -> None:
        """Serve these methods with handlers that get the bytes of the request. Who stops need not wait for them.

        Args:
            unary: handlers that return the bytes of the answer.
            streaming: handlers that write their answers themselves.
            limit: of the calls that may be open.
        """
        under_way = CallsUnderWay()
        new_call: dict[str, Callable[[], OpenCall]] = {}
        kinds: tuple[tuple[type[OpenCall], Mapping[str, PlainHandler]], ...]
        kinds = (UnaryCall, unary), (StreamingCall, streaming)
        for kind, handlers in kinds:
            for name, handler in handlers.items():
                method = Method(under_way, self.admission, (limit,), self._plain(handler))
                new_call[f"/{service}/{name}"] = partial(kind, method)
        server.add_generic_rpc_handlers((_Service(new_call),))

    async def _receive(self, open_call: OpenCall) -> bytes:
        """The request of a call that has one. Raises InvalidField when there is none."""
        admission = self.admission
        try:
            received = await admission.receiving(open_call)
        finally:
            admission.received(open_call)
        if received is grpc.aio.EOF:
            raise InvalidField("request", "is missing")
        raw: bytes = received
        admission.buffers.count_read(open_call.connection, len(raw))
        return raw

    def _plain(self, handler: PlainHandler) -> Answer:
        async def answer(open_call: OpenCall, _requests: AsyncIterator[bytes], context: Context) -> Any:
            raw = await self._receive(open_call)
            return await handler(raw, context)

        return answer

    def _new_call(self, method: MethodDescriptor, handler: Callable[..., Any]) -> Callable[[], OpenCall]:
        """Returns the function that makes a call of this method, after its headers have arrived."""
        request_type: type[Message] = GetMessageClass(method.input_type)
        admission = self.admission
        kind: type[OpenCall] = StreamingCall
        limits: tuple[FairLimit, ...] = (admission.streams,)
        if method.client_streaming:
            # The handler parses the requests of a stream, because it must continue after one that cannot be parsed.
            limits, answer = (admission.streams, admission.update_streams), self._updates(handler)
        elif method.server_streaming:
            answer = self._stream(handler, request_type)
        else:
            waits = method.name == _WAITS
            kind, limits = UnaryCall, (admission.streams if waits else admission.calls,)
            reserve = _RESERVED.get(method.name, 0)
            answer = self._unary(handler, request_type, is_batch=method.name == _BATCH, waits=waits, reserve=reserve)
        return partial(kind, Method(self.under_way, admission, limits, answer))

    def _unary(
        self,
        handler: Callable[[Any, Call], Awaitable[bytes]],
        request_type: type[Message],
        *,
        is_batch: bool,
        waits: bool,
        reserve: int,
    ) -> Answer:
        answers, admission = self.answers, self.admission

        async def answer(open_call: OpenCall, _requests: AsyncIterator[bytes], context: Context) -> bytes:
            batch_share = share = None
            connection = open_call.connection
            try:
                if is_batch:
                    raw, batch_share = await admission.batch(open_call)
                else:
                    raw = await self._receive(open_call)
                # A call that waits does not hold room for an answer meanwhile, which is usually empty.
                reserved = reserve or (ANSWER_BYTES_RESERVED if answers.is_tight and not waits else 0)
                if reserved:
                    # Wait for room before the answer is prepared.
                    share = self._answer_share(connection, context)
                    await in_time(share.take(reserved))
                call = Call(self._identify(context), len(raw), connection)
                answering = handler(parse(request_type, raw), call)
                del raw
                encoded = await answering
                if share is not None or len(encoded) > ANSWER_BYTES_COUNTED:
                    share = share or self._answer_share(connection, context)
                    share.resize(reserved, len(encoded))
                    share.unread_since = asyncio.get_running_loop().time()
                return encoded
            finally:
                if batch_share is not None:
                    batch_share.close()

        return answer

    def _answer_share(self, connection: str, context: Context) -> Share:
        """The share of an answer of this call, until the answer has been read."""
        share = self.answers.share(connection, partial(self.admission.connections.end, connection))
        # The type of the callback has a context with other types.
        context.add_done_callback(cast("Any", share.call_ended))
        return share

    def _stream(
        self, handler: Callable[[Any, StreamCall], AsyncGenerator[bytes, None]], request_type: type[Message]
    ) -> Answer:
        async def answer(open_call: OpenCall, _requests: AsyncIterator[bytes], context: Context) -> None:
            connection = open_call.connection
            raw = await self._receive(open_call)
            call = StreamCall(self._identify(context), len(raw), connection, open_call.end)
            call.unread = self._answer_share(connection, context)
            responses = handler(parse(request_type, raw), call)
            # A watch may last for days, its request may be large, and there are many watches.
            del raw, call
            await _write(responses, context)

        return answer

    def _updates(self, handler: Callable[[AsyncIterator[bytes], StreamCall], AsyncGenerator[bytes, None]]) -> Answer:
        async def answer(open_call: OpenCall, _requests: AsyncIterator[bytes], context: Context) -> None:
            connection = open_call.connection
            buffers = self.admission.buffers
            count_read = partial(buffers.count_read, connection)
            call = StreamCall(self._identify(context), 0, connection, open_call.end, count_read)
            await _write(handler(_Requests(context, connection, buffers), call), context)

        return answer


class _Requests:
    """The requests of a stream, in order.

    gRPC's own iterator keeps the latest one in memory until the next garbage collection after the stream's end.
    """

    def __init__(self, context: Context, connection: str, buffers: ReceiveBuffers) -> None:
        self._context = context
        self._connection = connection
        self._buffers = buffers

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> bytes:
        request: Any = await self._context.read()
        self._buffers.received()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        if self._buffers.is_closed(self._connection):
            # Freed at once: nobody waits for the answer, and there is no memory for the request.
            del request
            raise Overloaded("this connection sent more than there was memory for", RETRY_DELAY_S)
        return cast("bytes", request)


async def _write(responses: AsyncGenerator[bytes, None], context: Context) -> None:
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)


class _Service(grpc.GenericRpcHandler):
    """Finds a method by its name."""

    def __init__(self, new_call: dict[str, Callable[[], OpenCall]]) -> None:
        self._new_call = new_call

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call whose headers have arrived. None if there is no such method."""
        new_call = self._new_call.get(handler_call_details.method)
        return None if new_call is None else new_call()


def parse(request_type: type[Message], raw: bytes) -> Message:
    """The request in these bytes.

    Raises:
        MessageTooLarge: there are too many bytes.
        InvalidField: the bytes are not an encoded message of this type.
    """
    if len(raw) > REQUEST_BYTES_MAX:
        raise MessageTooLarge(len(raw), REQUEST_BYTES_MAX)
    try:
        return request_type.FromString(raw)
    except DecodeError as error:
        raise InvalidField("request", f"is not an encoded {request_type.DESCRIPTOR.full_name}") from error
