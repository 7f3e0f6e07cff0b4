"""The echo: the emptiest grpc.aio server that parses the same requests and sends answers as large. The limit itself.

It listens with the server's own options, so that neither gains by those. Two more methods serve the row on fan-out:
watchers that wait, and a call that makes each of them get so many events, one per message, as fast as grpc.aio can.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from jobstate.v1 import job_service_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.rpc.transport import transport_options

from .messages import echoed, one_event

_SERVICE = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
_Context = grpc.aio.ServicerContext[Any, Any]


def _echo(answer: Message) -> Any:
    async def echo(request: Message, context: _Context) -> Message:
        del request, context
        return answer

    return echo


class _FanOut:
    """Watchers of the echo, and the call that notifies them."""

    def __init__(self) -> None:
        self._notified = asyncio.Event()
        self._count = 0
        self._message = one_event()

    async def watch(self, request: pb.WatchEventsRequest, context: _Context) -> AsyncIterator[pb.WatchEventsResponse]:
        del request, context
        yield pb.WatchEventsResponse(kind=pb.WATCH_RESPONSE_KIND_SYNCED)
        await self._notified.wait()
        for _ in range(self._count):
            yield self._message

    async def recent(self, request: pb.RetryRequest, context: _Context) -> pb.RetryResponse:
        """The id says how many events there shall be."""
        del context
        self._count = int(request.id)
        self._notified.set()
        return pb.RetryResponse()


def _handlers() -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    fan_out = _FanOut()

    def options(method: str) -> dict[str, Any]:
        request_type: type[Message] = GetMessageClass(_SERVICE.methods_by_name[method].input_type)
        return {
            "request_deserializer": request_type.FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }

    handlers = {
        method: grpc.unary_unary_rpc_method_handler(_echo(answer), **options(method))
        for method, answer in echoed().items()
    }
    handlers["Retry"] = grpc.unary_unary_rpc_method_handler(fan_out.recent, **options("Retry"))
    handlers["WatchEvents"] = grpc.unary_stream_rpc_method_handler(fan_out.watch, **options("WatchEvents"))
    return handlers


async def _serve() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = grpc.aio.server(options=transport_options())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE.full_name, _handlers()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo: serving on 127.0.0.1:{port}", flush=True)
    await stopped.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve())
