"""The slices of a task's work: each is one transaction, and callers keep most of the committer's time."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import MILLISECOND, SECOND
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import SliceOutcome
from jobstate_server.engine.pace import Pace, pause
from jobstate_server.maintenance.task import StillClaimed
from jobstate_server.store.base import Transaction

TASK_SHARE = 0.2
"""The share of the committer's time that a run of a task may take while callers wait: it has until its next run."""

TASK_SLICE_TIME = 5 * MILLISECOND
"""How long a slice may take while callers wait behind it: less than a commit of theirs."""


class Slices:
    """The slices of one run."""

    def __init__(self, committer: Committer, clock: Clock, rows_max: int) -> None:
        """``rows_max``: rows of one slice at most, when there are no callers."""
        self._committer = committer
        self._clock = clock
        self._pace = Pace(TASK_SHARE, TASK_SLICE_TIME, rows_max)

    @property
    def rows(self) -> int:
        """How many rows the next slice may change."""
        return self._pace.rows

    async def run(self, work: Callable[[Transaction, int], int]) -> int:
        """Do ``work`` in a transaction, then leave the others their part.

        It is given how many rows it may change at most, and returns how many it changed.
        """
        limit = self.rows

        def timed(transaction: Transaction) -> tuple[int, int]:
            began = time.perf_counter()
            return work(transaction, limit), round((time.perf_counter() - began) * SECOND)

        changed, spent = await self._committer.run(timed)
        if changed:
            await self._rest(self._pace.after(changed, spent, self._committer.backlog))
        return changed

    async def run_all(self, work: Callable[[Transaction, int], int], still_claimed: StillClaimed) -> int:
        """Run slices until one changes nothing or the run is no longer claimed. Returns how many rows they changed."""
        total = 0
        while await still_claimed():
            changed = await self.run(work)
            if not changed:
                break
            total += changed
        return total

    async def after(self, rows: int, outcome: SliceOutcome) -> None:
        """Leave the others their part after a command that changed so many rows."""
        others = outcome.others + self._committer.backlog
        await self._rest(self._pace.after(rows, outcome.spent, others))

    async def _rest(self, length: int) -> None:
        if length:
            await pause(self._clock, length)
