"""A proxy of gRPC calls that drops every third answer, of calls that have been carried out, and delays others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from ..support.waiting import pause
from .clients import CHANNEL_OPTIONS

DELAY_MAX_S = 0.3

Forward = Callable[[bytes, Any], Awaitable[bytes]]


class LossyProxy(grpc.GenericRpcHandler):
    """Forwards unary calls, as they are, to any of the servers."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], rng: random.Random) -> None:
        self.address = ""
        self.counts: Counter[str] = Counter()
        self._channels = channels
        self._rng = rng
        self._answers = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """How a call of any method is served."""
        return grpc.unary_unary_rpc_method_handler(self._forwarding(str(handler_call_details.method)))

    def _forwarding(self, method: str) -> Forward:
        async def forward(request: bytes, context: Any) -> bytes:
            call: Any = self._rng.choice(self._channels).unary_unary(method)
            answer = b""
            try:
                answer = await call(request, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))
            await self._maybe_lose(context)
            return answer

        return forward

    async def _maybe_lose(self, context: Any) -> None:
        self._answers += 1
        match self._answers % 6:
            case 0:
                self.counts["answers lost with the connection"] += 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
            case 3:
                self.counts["answers lost in silence"] += 1
                await pause(context.time_remaining() + 1.0)
            case 1 | 4:
                self.counts["answers delayed"] += 1
                await pause(self._rng.uniform(0.0, DELAY_MAX_S))


@asynccontextmanager
async def lossy_proxy(addresses: Sequence[str], rng: random.Random) -> AsyncIterator[LossyProxy]:
    """A proxy to these servers, on a port of loopback."""
    async with AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) for address in addresses]
        for channel in channels:
            await stack.enter_async_context(channel)
        proxy = LossyProxy(channels, rng)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([proxy])
        proxy.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, None)
        yield proxy
