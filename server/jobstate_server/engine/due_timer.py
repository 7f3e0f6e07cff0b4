"""The due timer: serves due jobs at the earliest due time of any job.

Due times are stored; the timer only waits for the next one. It cannot lose any: after a restart, a clock step or a lost
timer it asks the store again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from jobstate_server.clock import Clock, Timer
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import ServeDue
from jobstate_server.domain.durations import MILLISECOND, SECOND
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import DueOutcome, Outcome
from jobstate_server.engine.pace import SliceSize

log = logging.getLogger(__name__)

DUE_MAX = 512
"""Due jobs served in one batch at most, however many are due at once."""

DUE_SLICE_TIME = 3 * MILLISECOND
"""What the due jobs of one batch may add to it while callers wait, or half of what the store takes to read and commit,
if that is more. A call meets the rest of one slice and the whole of another. Every batch has all calls that wait, so
callers and due jobs go on together however many are due. With slices of 2 ms most of the time would be spent on
commits."""

RETRY_FAILED_DUE_AFTER = 1 * SECOND
"""How long to wait before due jobs that could not be served are tried again."""

RETRY_LOCKED_DUE_AFTER = 50 * MILLISECOND
"""How long to wait before due jobs are looked for again that another replica has in hand, in case it has died."""

UNANSWERED_TURNS_MAX = 5
"""After this many seconds the timer counts as lost, if it is overdue, or the committer answers others but not it."""

SLEEP_MAX = 1 * SECOND
"""The longest wait before the store's time is read again, so that a jump is noticed within a second."""

LATE_MIN = 100 * MILLISECOND
"""A loop that runs a timer this late was blocked, and has not yet seen the calls that arrived meanwhile."""

LATE_WAIT_MAX = 2 * SECOND
"""How long to wait for such calls at most. After longer pauses the limits themselves are postponed."""

BACKUP_DELAY = 50 * MILLISECOND
"""A replica serves the due times that it has written. The others check this much later, in case it has died."""


class DueTimer:
    """Waits for the earliest due time and has due jobs served."""

    def __init__(self, committer: Committer, clock: Clock) -> None:
        self._committer = committer
        self._clock = clock
        self._next_due: int | None = None
        self._timer: Timer | None = None
        self._timer_ends = 0
        self._slice = SliceSize(DUE_SLICE_TIME, DUE_MAX)
        self._serving: asyncio.Future[Outcome] | None = None
        self._asked = 0
        """How many jobs the command that is under way serves at most."""
        self._unanswered = 0
        self._is_stopped = False
        committer.due_written.subscribe(self.note)

    def start(self) -> None:
        """Ask the store which jobs are due, and serve them from now on."""
        self.serve_due()

    def stop(self) -> None:
        """Serve no more jobs."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_stopped = True

    @property
    def is_behind(self) -> bool:
        """Whether jobs are being served, or are known to be due and are not served yet."""
        is_due = self._next_due is not None and self._next_due <= self._clock.now()
        return self._serving is not None or is_due

    def turn(self) -> None:
        """Restart after a failure has ended the chain of timers. Called by the watchdog once a second."""
        is_late = self._next_due is not None and self._clock.monotonic() > self._timer_ends
        is_waiting = is_late if self._serving is None else not self._committer.silence
        self._unanswered = self._unanswered + 1 if is_waiting else 0
        if not self._is_stopped and self._unanswered > UNANSWERED_TURNS_MAX:
            log.error("the due timer had stopped; it was restarted")
            self._serving, self._unanswered = None, 0
            self.serve_due()

    def note_other_replica(self, next_due: int) -> None:
        """Note the earliest due time that a commit of another replica has written."""
        self.note(next_due + BACKUP_DELAY)

    def serve_due(self) -> None:
        """Serve the jobs that are due now, including those that the timer does not know of."""
        if self._serving is not None or self._is_stopped:
            return
        # The answer may not include due times that are noted from here on.
        self._next_due = None
        self._asked = self._slice.rows
        self._serving = serving = self._committer.submit_own(ServeDue(caller=SERVER, limit=self._asked))
        serving.add_done_callback(self._served)

    def note(self, due: int) -> None:
        """Note that a job is due then."""
        if self._next_due is None or due < self._next_due:
            self._next_due = due
            if self._serving is None:
                self._wait_until(due)

    def _served(self, serving: asyncio.Future[Outcome]) -> None:
        if serving is not self._serving or self._is_stopped:
            return
        has_more, next_due = self._next_after(serving)
        # Not earlier: if something above fails, the answer seems to be missing, and ``turn`` notices that.
        self._serving, self._unanswered = None, 0
        if has_more:
            self.serve_due()
            return
        if next_due is not None and (self._next_due is None or next_due < self._next_due):
            self._next_due = next_due
        if self._next_due is not None:
            self._wait_until(self._next_due)

    def _next_after(self, serving: asyncio.Future[Outcome]) -> tuple[bool, int | None]:
        """Whether more jobs are due now, and when to serve jobs next, according to this answer."""
        now = self._clock.now()
        if serving.cancelled() or serving.exception() is not None:
            # The committer has logged why.
            return False, now + RETRY_FAILED_DUE_AFTER
        outcome = serving.result()
        assert isinstance(outcome, DueOutcome)
        handled = outcome.served + outcome.failed
        has_more = outcome.has_more or (outcome.served > 0 and handled == self._asked)
        if has_more:
            others = outcome.others + self._committer.backlog
            self._slice.note(handled, outcome.spent, others, outcome.besides // 2)
        if outcome.failed and outcome.next_due is not None and outcome.next_due <= now:
            # Jobs that could not be served are still due. Try them again, but not at once.
            return has_more, now + RETRY_FAILED_DUE_AFTER
        if outcome.next_due is not None and outcome.next_due <= outcome.now:
            return has_more, now + RETRY_LOCKED_DUE_AFTER
        return has_more, outcome.next_due

    def _wait_until(self, due: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._set_timer(min(max(0, due - self._clock.now()), SLEEP_MAX), self._timer_ended)

    def _set_timer(self, wait: int, callback: Callable[[], None]) -> None:
        self._timer_ends = self._clock.monotonic() + wait
        self._timer = self._clock.call_later(wait, callback)

    def _timer_ended(self) -> None:
        self._unanswered = 0
        late = self._clock.monotonic() - self._timer_ends
        if late > LATE_MIN:
            # A timer must not overtake a report that waits to be read.
            self._set_timer(min(late, LATE_WAIT_MAX), self._check)
        else:
            self._check()

    def _check(self) -> None:
        self._timer = None
        if self._next_due is None:
            return
        if self._next_due <= self._clock.now():
            self.serve_due()
        else:
            self._wait_until(self._next_due)
