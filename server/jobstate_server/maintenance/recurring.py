"""Creates the jobs of recurring entries at their instants, each once over all replicas.

Every replica tries at every instant. The first whose transaction comes through creates the job, and moves the stored
instant of the entry in the same transaction; the others then find it moved. So there is no claim that a dead replica
could hold, and nothing to take over: see docs/decisions/0022-an-instant-moves-with-its-job.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.domain.errors import Draining, JobStateError
from jobstate_server.domain.recurring import INSTANT_AHEAD_MAX, CreateRecurring
from jobstate_server.engine.alarm import Alarm
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import Outcome
from jobstate_server.engine.pace import pause
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.timekeeper import ahead_of_wall_clock
from jobstate_server.maintenance.instants import Instants
from jobstate_server.maintenance.recurring_entry import Missed, RecurringEntry
from jobstate_server.maintenance.schedule import CHECK_INTERVAL
from jobstate_server.store.records import TaskRun
from jobstate_server.store.task_runs import RECURRING

log = logging.getLogger(__name__)

RETRY_DELAY = 5 * SECOND
"""How long to wait before an instant is tried again, or the store is asked again which instants have their jobs."""

MISSED_AFTER = 1 * MINUTE
"""An instant that is noticed later was missed, because the process was suspended: a running server looks at the time
twice as often."""

LOOK_TIME_S = 0.05
"""Seconds that the event loop looks for instants without a pause. After an outage, a thousand entries take seconds."""

assert MISSED_AFTER > CHECK_INTERVAL


@dataclass(frozen=True, slots=True)
class RecurringState:
    """An entry, its last job, and when the next is due."""

    entry: RecurringEntry
    last_run: TaskRun | None
    """None before the first job."""
    next_instant: int
    error: str
    """Why this server could not create the job of the latest instant. Empty once the instant has one."""


class _Watched:
    """An entry with what this server knows of its instants."""

    def __init__(self, entry: RecurringEntry) -> None:
        self.entry = entry
        self.instants = Instants(entry.schedule, entry.time_zone)
        self.looked = 0
        """Until when this server has looked for instants, by the wall clock."""
        self.next = 0
        self.due: int | None = None
        """The latest instant that has no job yet, as far as this server knows."""
        self.work: asyncio.Task[None] | None = None
        self.error = ""

    def look(self, wall: int) -> None:
        """Note the latest instant that has come. Of several only that one has a job."""
        if wall < self.looked - INSTANT_AHEAD_MAX:
            # The clock was wrong before.
            self.looked, self.next = wall, self.instants.next_after(wall)
        if self.next > wall:
            return
        latest = self.instants.latest(self.looked, wall)
        if latest is not None and (self.entry.missed is Missed.ONE or latest > wall - MISSED_AFTER):
            self.due = latest
        self.looked, self.next = wall, self.instants.next_after(wall)


class RecurringJobs:
    """The recurring entries of this server."""

    def __init__(
        self, entries: Sequence[RecurringEntry], committer: Committer, readers: Readers, clock: Clock, *, replica: str
    ) -> None:
        """``replica``: names this server in the instants for which it has created the job."""
        self._watched = [_Watched(entry) for entry in entries]
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._replica = replica
        self._alarm = Alarm(clock)
        self._beginning: asyncio.Task[None] | None = None
        self._is_running = False

    def start(self) -> None:
        """Create what was missed while no server ran, then the job of each instant."""
        self._is_running = True
        self._beginning = asyncio.create_task(self._begin())

    async def stop(self) -> None:
        """Create no more jobs."""
        self._is_running = False
        self._alarm.cancel()
        work = [task for task in (self._beginning, *(each.work for each in self._watched)) if task is not None]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until no job is being created. A failure of this module raises its error here."""
        if self._beginning is not None:
            await self._beginning
        await asyncio.gather(*(each.work for each in self._watched if each.work is not None))

    def turn(self) -> None:
        """Go on if a failure has ended the work. Called by the watchdog, every second."""
        if not self._is_running:
            return
        if self._beginning is not None and not self._beginning.done():
            return
        has_failed = self._beginning is None or self._beginning.cancelled() or self._beginning.exception() is not None
        if has_failed:
            log.error("the recurring jobs had not begun; they begin again")
            self._beginning = asyncio.create_task(self._begin())
        elif self._alarm.is_lost():
            log.error("the recurring jobs had stopped; they were restarted")
            self._look()
        else:
            self._work()

    def _wall(self) -> int:
        """What clocks on a wall show, by which people write schedules."""
        return self._clock.now() - ahead_of_wall_clock(self._clock)

    async def _begin(self) -> None:
        """Learn from the store which instants have their jobs. Until it answers, no job could be created anyway."""
        while True:
            try:
                await self._note_entries()
                break
            except Draining:
                return
            except JobStateError as error:
                log.warning("cannot read the recurring entries", extra={"cause": error.message})
            await pause(self._clock, RETRY_DELAY)
        if self._watched:
            self._look()

    async def _note_entries(self) -> None:
        stored = await self._runs()
        definitions = {each.entry.task: each.entry.definition for each in self._watched}
        noted = {run.name: run.definition for run in stored.values() if run.definition}
        wall = self._wall()
        if noted != definitions:
            await self._committer.run(lambda transaction: transaction.note_recurring(definitions, wall))
            stored = await self._runs()
        for each in self._watched:
            await asyncio.sleep(0)
            run = stored.get(each.entry.task)
            missed_since = wall if run is None or each.entry.missed is Missed.NONE else run.last_due
            each.looked = min(missed_since, wall)
            each.next = each.instants.next_after(each.looked)

    async def _runs(self) -> dict[str, TaskRun]:
        runs = await self._readers.run(lambda reader: reader.task_runs(), is_short=True)
        return {name: run for name, run in runs.items() if name.startswith(RECURRING)}

    def _look(self) -> None:
        """Look which instants have come, and create their jobs. What is left after ``LOOK_TIME_S`` follows at once."""
        wall, until = self._wall(), time.perf_counter() + LOOK_TIME_S
        try:
            for each in self._watched:
                each.look(wall)
                if time.perf_counter() > until:
                    break
            self._work()
        finally:
            wait = min(each.next for each in self._watched) - wall
            self._alarm.set(min(wait, CHECK_INTERVAL), self._look)

    def _work(self) -> None:
        for each in self._watched:
            if each.work is not None and each.work.done():
                _log_failure(each.work, each.entry)
                each.work = None
            if each.due is not None and each.work is None:
                each.work = asyncio.create_task(self._create(each))

    async def _create(self, each: _Watched) -> None:
        """Create the job of an entry's latest instant. Tries until the instant has one, or a later one has come."""
        while (due := each.due) is not None:
            error = await self._error_of(each.entry, due)
            if error and error != each.error:
                log.error(
                    "the job of a recurring entry could not be created",
                    extra={"entry": each.entry.name, "job": each.entry.job_id(due), "cause": error},
                )
            if error is None:
                each.error = ""
                if each.due == due:
                    each.due = None
                continue
            each.error = error or each.error
            await pause(self._clock, RETRY_DELAY)

    async def _error_of(self, entry: RecurringEntry, due: int) -> str | None:
        """Create the job of an instant. None once it has one; empty when another replica has the entry in hand."""
        ahead = ahead_of_wall_clock(self._clock)
        command = CreateRecurring(
            create=entry.create(due), task=entry.task, due=due, ahead=ahead, replica=self._replica
        )
        try:
            outcome = await self._committer.submit_own(command)
            assert isinstance(outcome, Outcome)
            if outcome.jobs:
                log.info("a recurring job was created", extra={"entry": entry.name, "job": command.create.job_id})
            elif not outcome.acted:
                if command.task not in await self._runs():
                    # A server that does not have the entry has forgotten it.
                    await self._note_entries()
                return ""
        except JobStateError as error:
            return error.message
        return None

    async def states(self) -> list[RecurringState]:
        """Every entry with its last job, whichever replica created it, and its next instant."""
        runs = await self._runs() if self._watched else {}
        wall = self._wall()
        return [
            RecurringState(
                each.entry,
                run if (run := runs.get(each.entry.task)) is not None and run.job_id else None,
                each.next if each.next > wall else each.instants.next_after(wall),
                each.error,
            )
            for each in self._watched
        ]


def _log_failure(work: asyncio.Task[None], entry: RecurringEntry) -> None:
    """Log what has ended the work for an entry, if that was a defect. The entry goes on."""
    if not work.cancelled() and (defect := work.exception()) is not None:
        log.error("the work for a recurring entry has failed", extra={"entry": entry.name}, exc_info=defect)
