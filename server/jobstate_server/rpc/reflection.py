"""gRPC server reflection, from which grpcurl and other tools read the contract. It is limited and cannot delay a stop.

The protocol has two names, v1 and v1alpha, with the same messages. The library has only the older one (1.85).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1ALPHA = reflection.SERVICE_NAME
V1 = V1ALPHA.replace(".v1alpha.", ".v1.")
SERVICE_NAMES = (V1, V1ALPHA)

STREAMS_MAX = 100
"""Open streams. A tool needs one for a second or two."""


class Reflection:
    """The library's servicer, in streams that end when the server stops."""

    def __init__(self, service_names: Sequence[str]) -> None:
        describe_v1()
        self._names = list(service_names)
        self._streams = 0
        self._draining = asyncio.Event()

    def add(self, service_name: str) -> None:
        """Describe one more service. Call it before ``register``."""
        self._names.append(service_name)

    def register(self, server: grpc.aio.Server) -> None:
        """Serve the protocol under both names."""
        self._servicer: Any = reflection.aio.ReflectionServicer(self._names)
        handler = grpc.stream_stream_rpc_method_handler(
            self._answers,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        handlers = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, handlers) for name in SERVICE_NAMES)
        )

    def drain(self) -> None:
        """The server is stopping: end the streams."""
        self._draining.set()

    async def _answers(self, requests: AsyncIterable[Any], context: Any) -> AsyncIterator[Any]:
        """Answer each question, in order."""
        if self._streams >= STREAMS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reflection streams are open")
        self._streams += 1
        try:
            async for answer in self._servicer.ServerReflectionInfo(self._until_drain(requests), context):
                yield answer
        finally:
            self._streams -= 1
        if self._draining.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    async def _until_drain(self, requests: AsyncIterable[Any]) -> AsyncIterator[Any]:
        draining = asyncio.ensure_future(self._draining.wait())
        following = aiter(requests)
        asking: asyncio.Future[Any] | None = None
        try:
            while not draining.done():
                asking = asyncio.ensure_future(_next(following))
                await asyncio.wait({asking, draining}, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done() or (request := asking.result()) is None:
                    return
                yield request
        finally:
            draining.cancel()
            if asking is not None:
                asking.cancel()


def describe_v1() -> None:
    """Add the description of v1, unless another library has added it."""
    pool = descriptor_pool.Default()
    name = reflection_pb2.DESCRIPTOR.name.replace("/v1alpha/", "/v1/")
    with suppress(KeyError):
        pool.FindFileByName(name)
        return
    old, new = V1ALPHA.rpartition(".")[0], V1.rpartition(".")[0]
    description = descriptor_pb2.FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    description.name, description.package = name, new
    for message in description.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(f".{old}.", f".{new}.")
    for method in description.service[0].method:
        method.input_type = method.input_type.replace(f".{old}.", f".{new}.")
        method.output_type = method.output_type.replace(f".{old}.", f".{new}.")
    pool.Add(description)


async def _next(requests: AsyncIterator[Any]) -> Any:
    """The next request. None at the end, because a task cannot raise StopAsyncIteration."""
    return await anext(requests, None)
