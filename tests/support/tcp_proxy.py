"""A TCP proxy that can stop forwarding, so that each end sees the other as a machine that lost its power."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class TcpProxy:
    """Forwards connections to ``address`` to the upstream."""

    def __init__(self, upstream: str) -> None:
        self.address = ""
        self._upstream = upstream
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._carrying: set[asyncio.Task[None]] = set()

    def stop_forwarding(self) -> None:
        """Keep the connections open, and forward nothing."""
        self._forwarding.clear()

    def lose(self) -> None:
        """Keep the present connections open, and forward nothing over them. New connections work as usual."""
        self._forwarding.clear()
        self._forwarding = asyncio.Event()
        self._forwarding.set()

    def go_on(self) -> None:
        """Forward again, beginning with what was held back."""
        self._forwarding.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        forwarding, task = self._forwarding, asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        try:
            there, here = await self._open_upstream()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, here, forwarding))
                group.create_task(self._carry(there, writer, forwarding))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            self._carrying.discard(task)
            writer.close()

    async def _open_upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._upstream.startswith("/"):
            return await asyncio.open_unix_connection(self._upstream)
        host, _, port = self._upstream.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, forwarding: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(65_536):
                await forwarding.wait()
                writer.write(data)
                await writer.drain()
            await forwarding.wait()
        finally:
            writer.close()

    async def close(self) -> None:
        """Break every connection."""
        for task in tuple(self._carrying):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def tcp_proxy(upstream: str) -> AsyncIterator[TcpProxy]:
    """A proxy to HOST:PORT, or to the socket at a path, on a port of loopback."""
    proxy = TcpProxy(upstream)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxy.address = f"{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
