"""The calls of Acquire on the event loop: how long they wait, and what becomes of them when nobody waits any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from functools import partial

from jobstate_server.clock import Clock
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import Acquire, ServeWaiting
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import Draining, Overloaded
from jobstate_server.domain.job import Job
from jobstate_server.engine.alarm import Alarm
from jobstate_server.engine.committer import WAIT_TURNS_MAX, Committer
from jobstate_server.engine.dispatcher import REPEATS_SOUGHT_MAX
from jobstate_server.engine.hand_out_rates import HandOutRates
from jobstate_server.engine.outcomes import Outcome, Verdict
from jobstate_server.engine.parked_acquires import WaitingAcquire
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.writer import RETRY_DELAY_S, unanswered
from jobstate_server.store.records import ANY_TYPE

log = logging.getLogger(__name__)

NOTHING = Outcome(())
"""The answer when no job is ready."""

LOOK_INTERVAL = 1 * SECOND
"""How often the store is asked for ready jobs while calls wait. Batches and notifications tell of them at once; this is
for a notification that was lost."""


class Acquires:
    """The calls of Acquire of one server. Call it on the event loop's thread."""

    def __init__(self, committer: Committer, clock: Clock, readers: Readers | None = None) -> None:
        """``readers``: with these the store is asked every second. None leaves it to the committer, whose transactions
        cost more, but nothing where no other server uses the store."""
        self.rates = HandOutRates()
        self._committer = committer
        self._parked = committer.parked
        self.clock = clock
        self._alarm = Alarm(clock)
        self._looking: asyncio.Future[Outcome] | None = None
        self._must_look_again = False
        self._readers = readers
        self._asking: asyncio.Future[bool] | None = None
        self._overdue: dict[WaitingAcquire, int] = {}
        """Calls whose time is up and whose batch is not committed yet, with the seconds since then."""
        self._is_draining = False
        committer.hand_out_unfinished.subscribe(self.look)
        committer.hand_out_opens.subscribe(self._look_at)

    def start(self) -> None:
        """Have the rates of lanes judged anew, because the settings may have other rates than before.

        It is asked for before the first call is, and again every second while the store cannot be written.
        """
        if not self._is_draining:
            self._committer.run(lambda transaction: transaction.reopen_lanes()).add_done_callback(self._reopened)

    def _reopened(self, reopening: asyncio.Future[None]) -> None:
        if reopening.cancelled() or reopening.exception() is not None:
            # The committer has logged why.
            self.clock.call_later(LOOK_INTERVAL, self.start)

    def waiting(self, job_type: str) -> int:
        """How many calls wait for jobs of this type."""
        return self._parked.waiting(job_type)

    @property
    def count(self) -> int:
        """How many calls wait."""
        return len(self._parked)

    async def acquire(self, command: Acquire, size: int, wait: int, connection: str = "") -> tuple[Job, ...]:
        """Claim the next ready jobs. If there are none, wait up to ``wait`` microseconds for the first.

        ``size`` and ``connection`` are those of ``Committer.submit``. If it is cancelled, jobs that it may have claimed
        are released, unless the call can be repeated.

        Raises:
            Overloaded, Draining, StoreUnavailable, and what the rules refuse.
        """
        otherwise: Verdict | None = None
        if self._is_draining:
            otherwise = Draining(RETRY_DELAY_S)
        elif not wait:
            otherwise = NOTHING
        call = self._committer.submit_acquire(command, size, otherwise, connection)
        timer = None
        if otherwise is None:
            timer = self.clock.call_later(wait, partial(self._end_wait, call))
            self._set_alarm()
        try:
            jobs = (await call.future).jobs
        except asyncio.CancelledError:
            self._caller_gone(call)
            raise
        finally:
            self._overdue.pop(call, None)
            if timer is not None:
                timer.cancel()
        self.note_handed_out(jobs)
        return jobs

    def note_handed_out(self, jobs: Iterable[Job]) -> None:
        """Count jobs that were handed out."""
        now = self.clock.now()
        for job in jobs:
            self.rates.note(job.job_type, now)

    def _end_wait(self, call: WaitingAcquire) -> None:
        """The time of this call is up."""
        if self._parked.withdraw(call, NOTHING):
            call.finish(NOTHING)
        elif not call.future.done():
            # A batch has it, and answers it in a moment.
            self._overdue[call] = 0

    def _caller_gone(self, call: WaitingAcquire) -> None:
        if self._parked.withdraw(call, NOTHING) or call.future.cancelled():
            # If a batch has it, what that hands out is released when it is delivered.
            return
        if call.future.done() and call.future.exception() is None and call.command.request is None:
            self._committer.return_undelivered(call.future.result().jobs)

    def drain(self) -> None:
        """The server is stopping: end all waits. Jobs that a batch has for them by now are still delivered."""
        self._is_draining = True
        self._alarm.cancel()
        refusal = Draining(RETRY_DELAY_S)
        for call in self._parked.withdraw_all(refusal):
            call.finish(refusal)

    def turn(self) -> None:
        """A second has passed in which this process ran. Called by the watchdog."""
        if self._alarm.is_lost():
            log.error("the look for ready jobs had stopped; it was restarted")
            self._alarm.cancel()
            self.look()
        for call in tuple(self._overdue):
            self._overdue[call] += 1
            if self._overdue[call] > WAIT_TURNS_MAX and not call.future.done():
                call.future.set_exception(unanswered(WAIT_TURNS_MAX))

    def jobs_ready(self, job_types: Collection[str]) -> None:
        """Another replica has left jobs of these types ready."""
        if job_types == ANY_TYPE or any(name in self._parked for name in job_types):
            self.look()

    def _look_at(self, time: int) -> None:
        """A rate or hold will allow a hand-out at this time."""
        delay = time - self.clock.now()
        if self._is_draining or delay >= LOOK_INTERVAL:
            # The store is asked by then anyway.
            return
        due = self._alarm.due
        if due is None or self.clock.monotonic() + delay < due:
            self._alarm.set(delay, self._look_now)

    def _look_now(self) -> None:
        self._alarm.cancel()
        self.look()

    def look(self) -> None:
        """Hand out the ready jobs of the store to the calls that wait."""
        if self._is_draining or not self._parked:
            return
        self._set_alarm()
        if self._looking is not None:
            self._must_look_again = True
            return
        self._must_look_again = False
        self._looking = self._committer.submit_own(ServeWaiting(caller=SERVER))
        self._looking.add_done_callback(self._looked)

    def _looked(self, looking: asyncio.Future[Outcome]) -> None:
        self._looking = None
        if looking.cancelled() or looking.exception() is not None:
            # The committer has logged why. The alarm looks again.
            return
        if self._must_look_again:
            self.look()

    def _set_alarm(self) -> None:
        if not self._alarm.is_set:
            self._alarm.set(LOOK_INTERVAL, self._alarm_rang)

    def _alarm_rang(self) -> None:
        self._alarm.cancel()
        if self._readers is None:
            self.look()
        else:
            self._ask(self._readers)

    def _ask(self, readers: Readers) -> None:
        """Look only if there is anything to hand out, which one statement tells."""
        if self._is_draining or not self._parked:
            return
        self._set_alarm()
        if self._asking is not None:
            return
        job_types, keys = self._parked.job_types, self._parked.request_keys(REPEATS_SOUGHT_MAX)
        try:
            self._asking = readers.run(lambda reader: reader.has_ready(job_types, keys), is_short=True)
        except Overloaded:
            self.look()
        else:
            self._asking.add_done_callback(self._asked)

    def _asked(self, asking: asyncio.Future[bool]) -> None:
        self._asking = None
        if not asking.cancelled() and (asking.exception() is not None or asking.result()):
            self.look()
