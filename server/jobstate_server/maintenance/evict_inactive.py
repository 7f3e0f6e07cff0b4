"""evict-inactive: deletes request ids past their time, and lanes in which nothing is left."""

from __future__ import annotations

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import HOUR
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.writer import REQUEST_ID_KEPT_MIN
from jobstate_server.maintenance.age import removal_is_suspended
from jobstate_server.maintenance.slices import Slices
from jobstate_server.maintenance.task import StillClaimed, TaskResult, always_claimed

REQUEST_ID_KEPT = 24 * HOUR
"""How long a request id is stored: longer than any client retries a call."""

_REQUESTS_AT_ONCE = 1_000
"""Request ids deleted in one transaction at most, when there are no callers: about 5 ms."""


class EvictInactive:
    """Deletes request ids past their time, the oldest of those beyond their number, and lanes in which nothing is left.

    The server holds nothing in memory per job that would need the same.
    """

    name = "evict-inactive"

    def __init__(self, schedule: str, committer: Committer, clock: Clock) -> None:
        self.schedule = schedule
        self._committer = committer
        self._clock = clock

    async def run_scheduled(self, still_claimed: StillClaimed) -> str:
        is_held = await removal_is_suspended(self._committer, self._clock)
        result = await self.run_once(still_claimed=still_claimed, by_age=not is_held)
        why = "none for its age, because time has jumped; " if is_held else ""
        return f"{why}{result.requests} request ids deleted"

    async def run_once(self, *, still_claimed: StillClaimed = always_claimed, by_age: bool = True) -> TaskResult:
        """Delete ids past their time, if ``by_age``, then the oldest of those beyond ``request_ids_max``."""
        result = TaskResult()
        slices = Slices(self._committer, self._clock, _REQUESTS_AT_ONCE)
        older_than = self._clock.now() - REQUEST_ID_KEPT
        if by_age:
            result.requests = await slices.run_all(
                lambda transaction, limit: transaction.trim_requests(older_than, limit), still_claimed
            )
        removable_before = self._clock.now() - REQUEST_ID_KEPT_MIN
        if self._committer.requests_surplus > 0:
            result.requests += await slices.run_all(
                lambda transaction, limit: transaction.trim_requests(
                    removable_before, min(limit, max(0, self._committer.requests_surplus))
                ),
                still_claimed,
            )
        await slices.run_all(lambda transaction, limit: transaction.forget_idle_lanes(limit), still_claimed)
        return result
