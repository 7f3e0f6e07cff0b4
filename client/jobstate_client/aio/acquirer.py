"""Asks the server for work, for an asyncio worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jobstate_client.aio.cancellation import is_cancelling
from jobstate_client.core.acquiring import RELEASE_REASON, Pauses, acquire_call, take_back_call
from jobstate_client.core.calls import Call
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, RunOptions
from jobstate_client.core.values import Job
from jobstate_client.errors import JobStateError

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient

log = logging.getLogger("jobstate_client")

Jobs = tuple[Job, ...]


class AsyncAcquirer:
    """Asks for work until it gets some. One task calls it, and any on the event loop may call ``stop``."""

    def __init__(self, client: AsyncClient, job_types: list[str], options: RunOptions) -> None:
        self._client = client
        self._job_types = job_types
        self._options = options
        self._stopped = asyncio.Event()
        self._waiting: asyncio.Task[Jobs] | None = None
        """The call that is under way."""

    async def acquire(self, free_hands: int, wait_s: float) -> Jobs:
        """Up to so many jobs, as soon as there are any. May be empty, and is when nothing was got before ``stop``.

        ``wait_s`` is how long the server waits for the first one.

        Raises:
            JobStateError: the server refuses the call, or the client is closed.
        """
        call, pauses, was_asked = acquire_call(self._job_types, free_hands, self._options, wait_s), Pauses(), False
        while not self._stopped.is_set():
            was_asked = True
            pauses.asked()
            try:
                jobs = await self._ask(call)
            except JobStateError as error:
                pause = pauses.after(error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopped.wait()
            else:
                if jobs is not None:
                    return jobs
        return await self._take_back(call) if was_asked else ()

    def stop(self) -> None:
        """Ask no more, and give up a call that waits."""
        self._stopped.set()
        if self._waiting is not None:
            self._waiting.cancel()

    async def release(self, jobs: Iterable[Job]) -> None:
        """Give back what nobody has begun."""
        for job in jobs:
            try:
                await self._client.release(job, RELEASE_REASON, timeout=INTERRUPTED_PATIENCE_S)
            except JobStateError as error:
                log.warning("job %s could not be released, and is lost until its lease ends: %s", job.id, error)

    async def _ask(self, call: Call[Jobs]) -> Jobs | None:
        """Make the call. None if ``stop`` gave it up."""
        self._waiting = asyncio.create_task(self._client._invoke(call), name="jobstate-acquire-call")
        try:
            return await self._waiting
        except asyncio.CancelledError:
            if not self._stopped.is_set() or is_cancelling():
                raise
            return None
        finally:
            self._waiting = None

    async def _take_back(self, call: Call[Jobs]) -> Jobs:
        """What a call that was given up may have got. Otherwise it would be lost until its lease ends."""
        try:
            return await self._client._invoke(take_back_call(call))
        except JobStateError as error:
            log.info("whether jobs were handed out to a worker that has stopped is unknown: %s", error)
            return ()
