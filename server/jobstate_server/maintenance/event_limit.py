"""Keeps the log below its limit of bytes: a busy store can pass it long before the next cleanup."""

from __future__ import annotations

import asyncio
import logging

from jobstate_server.domain.errors import Unavailable
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.cleanup import EVENTS_AT_ONCE

log = logging.getLogger(__name__)

CHECK_TURNS = 5
"""Seconds between two checks of the log: it exceeds its limit by what is written in between."""

STUCK_TURNS = 60
"""Seconds without progress after which a check is cancelled. What it waits for is answered in half of that."""

GIVE_BACK_TURNS = 60
"""Seconds between two checks for pages to give back."""

PAGES_AT_ONCE = 512
"""Pages given back in one transaction, 2 MiB: some milliseconds, so that no writer waits long behind it."""


class EventLimit:
    """Removes the oldest events of a log that has become too large. Driven by the watchdog's turns."""

    def __init__(self, committer: Committer, readers: Readers, *, event_retention_bytes: int) -> None:
        self._committer = committer
        self._readers = readers
        self._bytes_max = event_retention_bytes
        self._turn = 0
        self._progress_turn = 0
        """The last turn in which a check began or made progress."""
        self._run: asyncio.Task[None] | None = None

    def turn(self) -> None:
        """Check every ``CHECK_TURNS`` seconds, one check at a time. Called by the watchdog, every second."""
        self._turn += 1
        if self._run is not None and not self._run.done():
            self._cancel_if_stuck(self._run)
        elif self._turn % CHECK_TURNS == 0:
            self._progress_turn = self._turn
            self._run = asyncio.create_task(self._check(self._turn % GIVE_BACK_TURNS == 0))

    def _cancel_if_stuck(self, run: asyncio.Task[None]) -> None:
        is_stuck = self._turn - self._progress_turn > STUCK_TURNS
        # If the store does not answer, health reports it, and the check ends with an error.
        if is_stuck and not self._committer.silence:
            log.error("the limit of the log had stopped; it was restarted")
            self._run = None
            run.cancel()

    async def stop(self) -> None:
        """Stop checking."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)

    async def _check(self, gives_back: bool) -> None:
        try:
            await self.trim()
            if gives_back:
                await self.release_pages()
        except Unavailable as error:
            log.warning("the size of the log could not be limited", extra={"cause": error.message})
        except Exception:
            # The next check starts from the beginning. This line is the only record of why this one failed.
            log.exception("the size of the log could not be limited")

    async def trim(self) -> int:
        """Remove the oldest events until the log is within its limit. Returns how many were removed."""
        state = await self._readers.run(lambda reader: reader.log_state(), is_short=True)
        removed = 0
        if state.bytes <= self._bytes_max:
            return removed
        while count := await self._committer.run(
            lambda transaction: transaction.trim_events(0, self._bytes_max, EVENTS_AT_ONCE)
        ):
            removed += count
            self._progress_turn = self._turn
        log.info("removed events beyond the limit of the log", extra={"events": removed})
        return removed

    async def release_pages(self) -> int:
        """Give unused pages back to the file system, where there are many. Returns how many."""
        given = 0
        while count := await self._committer.run(lambda transaction: transaction.release_pages(PAGES_AT_ONCE)):
            given += count
            self._progress_turn = self._turn
        return given
