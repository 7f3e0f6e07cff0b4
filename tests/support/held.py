"""Pauses the committer, so that a test decides which commands go into one batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobstate_server.app import Server
from jobstate_server.domain.commands import Command
from jobstate_server.engine.outcomes import Outcome

from .clock import PATIENCE_S


class Held:
    """A committer whose thread waits while commands collect in its queue."""

    def __init__(self) -> None:
        self.submitted: list[asyncio.Future[Outcome]] = []
        self._gate = threading.Event()
        self._arrived = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()

    def wait_for_release(self) -> None:
        """Block the committer's thread until the test releases it."""
        assert self._gate.wait(PATIENCE_S), "the committer was never released"

    def release(self) -> None:
        """Let the committer continue."""
        self._gate.set()

    def arrive(self, future: asyncio.Future[Outcome]) -> None:
        """Record that a command has entered the queue."""
        self.submitted.append(future)
        notice = asyncio.ensure_future(self._notify())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    async def _notify(self) -> None:
        async with self._arrived:
            self._arrived.notify_all()

    async def has(self, count: int) -> None:
        """Wait until this many commands are in the queue."""
        async with asyncio.timeout(PATIENCE_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.submitted) >= count)


@asynccontextmanager
async def held(server: Server) -> AsyncIterator[Held]:
    """Pause the committer of this server until ``release`` is called or the block ends."""
    committer = server.committer
    submit = committer.submit
    hold = Held()
    began = threading.Event()

    def occupy(_transaction: object) -> None:
        began.set()
        hold.wait_for_release()

    def submit_and_tell(command: Command, size: int, connection: str = "") -> asyncio.Future[Outcome]:
        future = submit(command, size, connection)
        hold.arrive(future)
        return future

    occupied = committer.run(occupy)
    await asyncio.to_thread(began.wait, PATIENCE_S)
    committer.submit = submit_and_tell  # type: ignore[method-assign]
    try:
        yield hold
    finally:
        hold.release()
        committer.submit = submit  # type: ignore[method-assign]
        await occupied
