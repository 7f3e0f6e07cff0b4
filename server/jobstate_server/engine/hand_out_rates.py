"""How fast a server hands out jobs of each type, to estimate when a job will begin."""

from __future__ import annotations

from collections import Counter, deque

from jobstate_server.domain.durations import MINUTE, SECOND

WINDOW = 1 * MINUTE
"""How far back hand-outs count."""

_STEP = 5 * SECOND
"""Hand-outs are counted in steps of this length, so that the memory does not depend on how many there are."""


class HandOutRates:
    """Counts hand-outs by job type. Call it on the event loop's thread."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, Counter[str]]] = deque(maxlen=WINDOW // _STEP)

    def note(self, job_type: str, now: int) -> None:
        """Count a hand-out."""
        step = now // _STEP
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append((step, Counter()))
        self._steps[-1][1][job_type] += 1

    def time_for(self, jobs: int, job_type: str, now: int) -> int | None:
        """How long it takes to hand out this many jobs of a type. None if none was within the latest minute."""
        first = now // _STEP - WINDOW // _STEP
        counted = [(step, counts[job_type]) for step, counts in self._steps if step > first and counts[job_type]]
        if not counted:
            return None
        count = sum(count for _, count in counted)
        period = max(_STEP, now - counted[0][0] * _STEP)
        return jobs * period // count
