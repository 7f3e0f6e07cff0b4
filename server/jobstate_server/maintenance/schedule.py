"""Runs each task at its instants, by the store's time.

A claim in the store makes each instant run once over all replicas.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from jobstate_server.clock import Clock, Timer
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import Unavailable
from jobstate_server.engine.alarm import Alarm
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.pace import pause
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.instants import Instants
from jobstate_server.maintenance.run_locks import RunLocks
from jobstate_server.maintenance.task import StillClaimed, Task
from jobstate_server.store.base import REPLICA_LEASE
from jobstate_server.store.records import TaskRun

log = logging.getLogger(__name__)

CHECK_INTERVAL = 30 * SECOND
"""Longest wait before reading the time again: when time jumps past an instant, that is noticed within this."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task, when it ran and when it will."""

    name: str
    schedule: str
    last_run: TaskRun | None
    next_run: int


class Schedule:
    """Runs the tasks at their instants."""

    def __init__(
        self,
        tasks: Sequence[Task],
        committer: Committer,
        readers: Readers,
        clock: Clock,
        *,
        replica: str,
        is_shared: bool,
        run_locks: RunLocks,
    ) -> None:
        """
        Args:
            replica: names this server in the runs that it claims.
            is_shared: other replicas run the tasks too. This one takes over the runs of those whose lease is over.
        """
        self.tasks = tuple(tasks)
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._replica = replica
        self._is_shared = is_shared
        self._run_locks = run_locks
        self._abandoned_timer: Timer | None = None
        self._instants = {task.name: Instants(task.schedule) for task in self.tasks}
        self._next_instants: dict[str, int] = {}
        self._alarm = Alarm(clock)
        self._runs: set[asyncio.Task[None]] = set()
        self._is_running = False

    async def start(self) -> None:
        """Run what was missed while no server ran, then run each task at its instants."""
        last_runs, made = await self._readers.run(
            lambda reader: (reader.task_runs(), reader.create_time()), is_short=True
        )
        for task in self.tasks:
            self._next_instants[task.name] = self._instants[task.name].next_after(self._clock.now())
            last = last_runs.get(task.name)
            # However long ago that was. A task that never ran is due for instants since the store was made.
            latest = self._instants[task.name].latest(made if last is None else last.last_due, self._clock.now())
            if latest is not None:
                self._begin(self.run_claimed(task, latest))
            else:
                self._take_over(task, last)
        self._is_running = True
        self._wake_later()
        self._look_for_abandoned_later()

    def _wake_later(self) -> None:
        wait = min(self._next_instants.values()) - self._clock.now()
        self._alarm.set(min(wait, CHECK_INTERVAL), self._run_due)

    def _run_due(self) -> None:
        """Run the tasks whose instants have come. Of several instants of one task only the latest is run."""
        now = self._clock.now()
        try:
            for task in self.tasks:
                first = self._next_instants[task.name]
                due = self._instants[task.name].latest(first - 1, now) if first <= now else None
                if due is not None:
                    self._next_instants[task.name] = self._instants[task.name].next_after(now)
                    self._begin(self.run_claimed(task, due))
        finally:
            self._wake_later()

    def _look_for_abandoned_later(self) -> None:
        if self._is_shared:
            self._abandoned_timer = self._clock.call_later(
                REPLICA_LEASE, lambda: self._begin(self.look_for_abandoned())
            )

    async def look_for_abandoned(self) -> None:
        """Run again the tasks that replicas have begun whose lease is over."""
        try:
            last_runs = await self._readers.run(lambda reader: reader.task_runs(), is_short=True)
            for task in self.tasks:
                self._take_over(task, last_runs.get(task.name))
        except Unavailable as error:
            log.warning("cannot look for abandoned tasks", extra={"cause": error.message})
        finally:
            self._look_for_abandoned_later()

    def _take_over(self, task: Task, run: TaskRun | None) -> None:
        """Run a task again whose run has not ended. The claim fails while the lease of its replica lasts."""
        if run is not None and run.end_time is None and run.replica != self._replica:
            self._begin(self.run_claimed(task, run.last_due))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        run = asyncio.create_task(work)
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    def turn(self) -> None:
        """Run what is due if a failure has lost the timer. Called by the watchdog, every second."""
        if self._is_running and self._alarm.is_lost():
            log.error("the schedule had stopped; it was restarted")
            self._run_due()

    async def stop(self) -> None:
        """Start no more runs and cancel those under way."""
        self._is_running = False
        self._alarm.cancel()
        if self._abandoned_timer is not None:
            self._abandoned_timer.cancel()
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until no run is under way. A run that failed raises its error here."""
        while self._runs:
            await asyncio.gather(*self._runs)

    async def states(self) -> list[TaskState]:
        """Every task with its last run, on any replica, and its next instant."""
        last_runs = await self._readers.run(lambda reader: reader.task_runs(), is_short=True)
        now = self._clock.now()
        return [
            TaskState(task.name, task.schedule, last_runs.get(task.name), self._instants[task.name].next_after(now))
            for task in self.tasks
        ]

    async def run_claimed(self, task: Task, due: int) -> None:
        """Run a task for a scheduled instant, unless it has run. Repeats the run when the store fails meanwhile."""
        token = secrets.token_hex(8)
        try:
            claim = self._committer.run(
                lambda transaction: transaction.claim_task(task.name, due, token, self._replica)
            )
            if not await claim:
                return
        except Unavailable as error:
            log.warning("a task could not run", extra={"task": task.name, "cause": error.message})
            return
        while not await self._has_ended(task, token):
            await pause(self._clock, REPLICA_LEASE)

    async def _has_ended(self, task: Task, token: str) -> bool:
        """Run a task that is claimed. False when the store failed before the end of the run was recorded."""

        async def still_claimed() -> bool:
            return await self._committer.run(lambda transaction: transaction.task_is_ours(task.name, token))

        try:
            async with self._run_locks.wait_for(task.name):
                outcome = await self._outcome(task, still_claimed)
            await self._committer.run(lambda transaction: transaction.finish_task(task.name, token, outcome))
        except Unavailable as error:
            log.warning("a task was interrupted", extra={"task": task.name, "cause": error.message})
            return False
        log.info("a task has run", extra={"task": task.name, "outcome": outcome})
        return True

    @staticmethod
    async def _outcome(task: Task, still_claimed: StillClaimed) -> str:
        try:
            return await task.run_scheduled(still_claimed)
        except Unavailable:
            raise
        except Exception:
            log.exception("a task failed", extra={"task": task.name})
            return "failed; the log says why"
