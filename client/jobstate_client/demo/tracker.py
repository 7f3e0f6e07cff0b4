"""Follows the jobs of the demo by one watch: the latest version of each job, and every event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from jobstate_client.aio.client import AsyncClient
from jobstate_client.core.values import Event, Job, Synced
from jobstate_client.views.overview import Overview


class Tracker:
    """What the watch has reported."""

    def __init__(self, overview: Overview, on_event: Callable[[Event], None], on_text: Callable[[str], None]) -> None:
        self.overview = overview
        self.say = on_text
        """Tells the audience what happens."""
        self.jobs: dict[str, Job] = {}
        self.events: list[Event] = []
        self.opened = asyncio.Event()
        """Set when the watch is open: no event is missed from then on."""
        self._on_event = on_event
        self._began = time.monotonic()
        self._changed = asyncio.Condition()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    async def follow(self, client: AsyncClient) -> None:
        """Watch every event from now on, until it is cancelled or fails."""
        async with client.watch() as watch:
            self.overview.connected()
            self.overview.update(Synced(watch.cursor), datetime.now(UTC))
            self.opened.set()
            async for event in watch:
                async with self._changed:
                    self._add(event)
                    self._changed.notify_all()

    def _add(self, event: Event) -> None:
        self.events.append(event)
        known = self.jobs.get(event.job.id)
        if known is None or event.job.version > known.version:
            self.jobs[event.job.id] = event.job
        self.overview.update(event, datetime.now(UTC))
        self._on_event(event)

    async def until(self, job_id: str, condition: Callable[[Job], bool]) -> Job:
        """Wait until the job meets the condition, as the watch reports it."""
        async with self._changed:
            await self._changed.wait_for(lambda: job_id in self.jobs and condition(self.jobs[job_id]))
            return self.jobs[job_id]
