"""gRPC's reflection, by which grpcurl and others learn the contract: bounded, and not in the way of a stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

STREAMS_MAX = 100
"""Open streams. A tool asks for a second or two and is gone."""


class Reflection:
    """The library's servicer, in streams that end when the server stops."""

    def __init__(self, service_names: Sequence[str]) -> None:
        self._servicer: Any = reflection.aio.ReflectionServicer(service_names)
        self._streams = 0
        self._draining = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        """Serve the protocol."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._answers,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        handlers = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, handlers),))

    def drain(self) -> None:
        """The server stops: end the streams."""
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


async def _next(requests: AsyncIterator[Any]) -> Any:
    """The next request, None at the end: a task cannot end with StopAsyncIteration."""
    return await anext(requests, None)
