"""For your own tests: a real server in this process, on a temporary store, with a clock that the test controls.

    pytest_plugins = ["jobstate_client.testing"]

    def test_a_failed_job_is_retried(jobstate_server):
        client = jobstate_server.client()
        job = client.start(client.create("clean_transcript"))
        client.fail(job, "RATE_LIMITED")
        jobstate_server.advance(1.0)
        assert client.get(job).attempt == 2

The server needs ``pip install 'jobstate-grpc[testing]'``. It is imported when a server is made.

PYTEST_DONT_REWRITE: there are no assertions here, and the module may be imported before pytest loads it as a plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from jobstate_client.aio.client import AsyncClient
from jobstate_client.core.documents import seconds
from jobstate_client.core.values import Span
from jobstate_client.sync.client import Client

if TYPE_CHECKING:
    from jobstate_server.app import Server
    from jobstate_server.clock import ManualClock

T = TypeVar("T")

PATIENCE_S = 30.0
"""How long any operation of the server may take."""

_NEVER = "0 0 29 2 *"
"""A schedule that does not fire during a test: tasks follow the machine's clock. Call them when you want them."""

_MICROSECONDS = 1_000_000


class JobstateServer:
    """A server in a thread of this process. It serves as soon as it is made."""

    def __init__(self, folder: Path, *, manual_time: bool = True, **settings: Any) -> None:
        """Start the server.

        Args:
            folder: where the store is kept.
            manual_time: time passes only by ``advance``; otherwise the server follows the machine's clock.
            settings: the server's settings (docs/operations.md), such as ``job_types={"my_type": {"max_retries": 1}}``.
        """
        defaults: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "store": f"sqlite:///{folder / 'jobs.db'}",
            "shutdown_grace": "1s",
        }
        self._settings = defaults | settings
        self._clock = _manual_clock() if manual_time else None
        self._clients: list[Client] = []
        self._server: Server | None = None
        self._held_port: socket.socket | None = None
        self.address = ""
        """HOST:PORT, the same after a restart."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jobstate-server", daemon=True)
        self._thread.start()
        try:
            self._do(self._start())
        except BaseException:
            self.close()
            raise

    def client(self, **arguments: Any) -> Client:
        """A client of this server, with the arguments of ``Client``. It is closed together with the server."""
        client = Client(self.address, **arguments)
        self._clients.append(client)
        return client

    def async_client(self, **arguments: Any) -> AsyncClient:
        """A client of this server, with the arguments of ``AsyncClient``. Close it yourself, with ``async with``."""
        return AsyncClient(self.address, **arguments)

    @property
    def now(self) -> datetime:
        """The server's current time."""
        if self._clock is None:
            return datetime.now(UTC)
        return datetime.fromtimestamp(self._clock.now() / _MICROSECONDS, UTC)

    def advance(self, span: Span) -> None:
        """Let time pass. Everything that falls due, such as a retry or a timeout, has happened when this returns."""
        if self._clock is None:
            raise RuntimeError("this server follows the machine's clock; make it with manual_time=True")
        self._do(self._advance(round(seconds(span) * _MICROSECONDS)))

    def stop(self) -> None:
        """Stop the server as an operator would. Does nothing if it is stopped."""
        self._do(self._stop())

    def start(self) -> None:
        """Start the server again, with the same store and address."""
        self._do(self._start())

    def restart(self) -> None:
        """Stop and start the server."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server for good, and close the clients made by ``client``."""
        for client in self._clients:
            client.close()
        if not self._loop.is_closed():
            with contextlib.suppress(Exception):
                self.stop()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()
        self._release_port()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _start(self) -> None:
        from jobstate_server.app import Server
        from jobstate_server.config import Settings
        from jobstate_server.maintenance.registry import Schedules

        if self._server is not None:
            return
        schedules = dict.fromkeys(Schedules.model_fields, _NEVER)
        server = Server(Settings(**{"schedules": schedules, **self._settings}), self._clock)
        if sys.platform != "linux":
            self._release_port()
        await server.start()
        self._release_port()
        self._server, self.address = server, server.address
        self._settings["listen"] = server.address

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()
            self._hold_port()

    def _hold_port(self) -> None:
        """Keep the port while no server listens on it, so that no other program is given it.

        Connections to a socket that does not listen are refused. On Linux a server can listen beside it, as both have
        SO_REUSEADDR; elsewhere it is closed just before.
        """
        host, _, port = self.address.rpartition(":")
        with contextlib.suppress(OSError):
            family, kind, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            self._held_port = socket.socket(family, kind)
            self._held_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held_port.bind(address)

    def _release_port(self) -> None:
        held, self._held_port = self._held_port, None
        if held is not None:
            held.close()

    async def _advance(self, span: int) -> None:
        assert self._clock is not None
        self._clock.advance(span)
        # Tasks submit the recurring jobs that are due.
        await asyncio.sleep(0)
        server = self._server
        while server is not None:
            # Due jobs go through the committer like any call, in as many commits as they take.
            await server.committer.run(lambda transaction: None)
            if not server.due_timer.is_behind:
                return
            # Runs the timer of what fell due meanwhile.
            self._clock.advance(0)


def _manual_clock() -> ManualClock:
    from jobstate_server.clock import ManualClock

    return ManualClock(time.time_ns() // 1_000)


@contextlib.contextmanager
def serving(*, manual_time: bool = True, **settings: Any) -> Iterator[JobstateServer]:
    """A server on a temporary store, for one ``with`` block. The arguments are those of ``JobstateServer``."""
    with tempfile.TemporaryDirectory(prefix="jobstate-test-") as folder:
        server = JobstateServer(Path(folder), manual_time=manual_time, **settings)
        try:
            yield server
        finally:
            server.close()


@pytest.fixture
def jobstate_server() -> Iterator[JobstateServer]:
    """A server for this test. Its time passes only by ``jobstate_server.advance``."""
    with serving() as server:
        yield server
