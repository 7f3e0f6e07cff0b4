"""The schedule: rings by the store's time; a claim in the store makes each instant run once over all replicas."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.triggers.cron import CronTrigger

from jobstate_server.clock import Clock, Timer
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import Unavailable
from jobstate_server.engine.alarm import Alarm
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.task import Duty, StillOurs
from jobstate_server.maintenance.turns import Turns
from jobstate_server.store.base import REPLICA_LEASE, TaskRun

log = logging.getLogger(__name__)

_LOOKS_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=366), timedelta(days=9 * 366))
"""How far back the latest instant is looked for, step by step: frequent ones are found soon, and rare ones are few. The
rarest is 29 February, which stays away for eight years around 2100."""

LOOK_INTERVAL = 30 * SECOND
"""Longest wait before the time is looked at again: an instant to which time has jumped is noticed within this."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """A duty, when it ran and when it will."""

    name: str
    schedule: str
    last_run: TaskRun | None
    next_run: int


class Schedule:
    """Runs the duties at their instants."""

    def __init__(
        self,
        duties: Sequence[Duty],
        committer: Committer,
        readers: Readers,
        clock: Clock,
        *,
        replica: str,
        is_shared: bool,
        turns: Turns,
    ) -> None:
        """
        Args:
            replica: names this server in the runs that it takes.
            is_shared: others may run the duties too, and this one takes over from those that fall silent.
        """
        self.duties = tuple(duties)
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._replica = replica
        self._is_shared = is_shared
        self._turns = turns
        self._timer: Timer | None = None
        self._triggers = {duty.name: CronTrigger.from_crontab(duty.schedule, timezone=UTC) for duty in self.duties}
        self._next_instants: dict[str, int] = {}
        self._alarm = Alarm(clock)
        self._runs: set[asyncio.Task[None]] = set()
        self._is_running = False

    async def start(self) -> None:
        """Begin to ring; first run what was missed while nobody was up."""
        last_runs, made = await self._readers.run(
            lambda reader: (reader.task_runs(), reader.create_time()), is_short=True
        )
        for duty in self.duties:
            self._next_instants[duty.name] = self._next_after(duty, self._clock.now())
            last = last_runs.get(duty.name)
            latest = self._latest_instant(duty)
            # However long ago it was: a duty that never ran is owed one since the store was made.
            if latest is not None and latest > (made if last is None else last.last_due):
                self._begin(self.run_claimed(duty, latest))
            else:
                self._take_over(duty, last)
        self._is_running = True
        self._ring_later()
        self._look_later()

    def _ring_later(self) -> None:
        wait = min(self._next_instants.values()) - self._clock.now()
        self._alarm.set(min(wait, LOOK_INTERVAL), self._run_due)

    def _run_due(self) -> None:
        """Run the duties whose instants have come. Of several instants of one duty only the latest is run."""
        now = self._clock.now()
        try:
            for duty in self.duties:
                due = self._latest_instant(duty) if self._next_instants[duty.name] <= now else None
                if due is not None:
                    self._next_instants[duty.name] = self._next_after(duty, now)
                    self._begin(self.run_claimed(duty, due))
        finally:
            self._ring_later()

    def _look_later(self) -> None:
        if self._is_shared:
            self._timer = self._clock.call_later(REPLICA_LEASE, lambda: self._begin(self._look_for_abandoned()))

    async def _look_for_abandoned(self) -> None:
        """Finish what replicas have begun that fell silent since."""
        try:
            last_runs = await self._readers.run(lambda reader: reader.task_runs(), is_short=True)
            for duty in self.duties:
                self._take_over(duty, last_runs.get(duty.name))
        except Unavailable as error:
            log.warning("cannot look for abandoned duties", extra={"cause": error.message})
        finally:
            self._look_later()

    def _take_over(self, duty: Duty, run: TaskRun | None) -> None:
        """Run a duty again whose run has not ended; the claim fails for as long as its replica is heard."""
        if run is not None and run.end_time is None and run.replica != self._replica:
            self._begin(self.run_claimed(duty, run.last_due))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)

    def turn(self) -> None:
        """A second has passed: begin anew where a failure has cut the course of timers. Called by the watchdog."""
        if self._is_running and self._alarm.is_lost():
            log.error("the schedule had stopped, and begins anew")
            self._run_due()

    async def stop(self) -> None:
        """Ring no more, and let runs that are under way end: they stop at their next slice once the committer does."""
        self._is_running = False
        self._alarm.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def tasks(self) -> list[TaskState]:
        """Every duty with its last run, on whichever replica, and its next instant."""
        last_runs = await self._readers.run(lambda reader: reader.task_runs(), is_short=True)
        now = self._clock.now()
        return [
            TaskState(duty.name, duty.schedule, last_runs.get(duty.name), self._next_after(duty, now))
            for duty in self.duties
        ]

    def _next_after(self, duty: Duty, now: int) -> int:
        return _micros(self._next(duty, _moment(now)))

    def _next(self, duty: Duty, after: datetime) -> datetime:
        instant: datetime | None = self._triggers[duty.name].get_next_fire_time(None, after + timedelta(microseconds=1))
        assert instant is not None, "the settings refuse what never comes"
        return instant

    def _latest_instant(self, duty: Duty) -> int | None:
        """The last scheduled instant up to now, None when there was none within memory."""
        now = _moment(self._clock.now())
        for span in _LOOKS_BACK:
            latest = None
            instant = self._next(duty, now - span)
            while instant <= now:
                latest = instant
                instant = self._next(duty, instant)
            if latest is not None:
                return _micros(latest)
        return None

    async def run_claimed(self, duty: Duty, due: int) -> None:
        """Run a duty for a scheduled instant, unless somebody has done so; again, if the store falls out meanwhile."""
        token = secrets.token_hex(8)
        try:
            claim = self._committer.run(
                lambda transaction: transaction.claim_task(duty.name, due, token, self._replica)
            )
            if not await claim:
                return
        except Unavailable as error:
            log.warning("a duty could not run", extra={"task": duty.name, "cause": error.message})
            return
        while not await self._has_ended(duty, token):
            await self._pause()

    async def _has_ended(self, duty: Duty, token: str) -> bool:
        """Run a duty that is claimed. False when the store fell out before its end was written down."""

        async def still_ours() -> bool:
            return await self._committer.run(lambda transaction: transaction.task_is_ours(duty.name, token))

        try:
            async with self._turns.wait(duty.name):
                outcome = await self._outcome(duty, still_ours)
            await self._committer.run(lambda transaction: transaction.finish_task(duty.name, token, outcome))
        except Unavailable as error:
            log.warning("a duty was broken off", extra={"task": duty.name, "cause": error.message})
            return False
        log.info("a duty has run", extra={"task": duty.name, "outcome": outcome})
        return True

    async def _pause(self) -> None:
        over = asyncio.Event()
        self._clock.call_later(REPLICA_LEASE, over.set)
        await over.wait()

    @staticmethod
    async def _outcome(duty: Duty, still_ours: StillOurs) -> str:
        try:
            return await duty.run_scheduled(still_ours)
        except Unavailable:
            raise
        except Exception:
            log.exception("a duty failed", extra={"task": duty.name})
            return "failed; the log tells why"


def _moment(time: int) -> datetime:
    return datetime.fromtimestamp(time / SECOND, UTC)


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * SECOND)
