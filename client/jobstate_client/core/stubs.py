"""What both clients make their calls with."""

from __future__ import annotations

from typing import Any

from jobstate_client.core.calls import RPCS, Call
from jobstate_client.errors import ClientClosed


def new_stub(channel: Any, name: str) -> Any:
    """The stub of this RPC on a channel of either kind."""
    rpc = RPCS[name]
    make: Any = {"StreamUpdates": channel.stream_stream, "WatchEvents": channel.unary_stream}.get(
        name, channel.unary_unary
    )
    return make(
        rpc.path,
        request_serializer=rpc.request_type.SerializeToString,
        response_deserializer=rpc.response_type.FromString,
    )


def closed_during(call: Call[Any]) -> ClientClosed:
    """The error of a call during which the client was closed."""
    error = ClientClosed("the client was closed during the call")
    error.request_id = call.request_id
    return error
