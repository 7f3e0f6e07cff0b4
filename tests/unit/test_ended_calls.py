"""A call that is ended once gRPC's server is being destroyed is cancelled, and its context is left alone."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest

from jobstate_server.domain.errors import Overloaded
from jobstate_server.rpc.serving import Calls


class Context:
    """Notes which of its methods are used."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def peer(self) -> str:
        self.used.append("peer")
        return "ipv4:127.0.0.1:1"

    async def abort_with_status(self, _status: object) -> None:
        self.used.append("abort_with_status")
        # As gRPC's does.
        raise grpc.aio.AbortError


async def end(calls: Calls, context: Context, *, closing: bool = False) -> None:
    """End a call that waits for ever. ``closing``: the server is destroyed before the status goes out."""
    serving = asyncio.create_task(asyncio.Event().wait())
    calls._end_call(cast("Any", context), cast("Any", serving), Overloaded("too slow", 1.0))
    if closing:
        calls.close()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await asyncio.gather(*calls._ending)


async def test_a_call_is_ended_with_a_status_while_the_server_is_there() -> None:
    context = Context()
    await end(Calls(), context)

    assert context.used == ["peer", "abort_with_status"]


async def test_a_call_that_is_ended_after_or_while_the_server_is_destroyed_is_only_cancelled() -> None:
    calls, before, after = Calls(), Context(), Context()
    await end(calls, before, closing=True)
    await end(calls, after)

    assert before.used == after.used == []
