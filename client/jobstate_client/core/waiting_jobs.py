"""What a worker could start: jobs that were told to be free, until somebody is told to have taken them.

No I/O happens here. The watch says what changed, a listing says what was there before; either may be late, and a start
that comes too late is refused without harm.
"""

from __future__ import annotations

import heapq
import random
from datetime import UTC, datetime

from jobstate_client.core.states import EventType, State
from jobstate_client.core.values import Event, Job

WAITING_JOBS_MAX = 10_000
"""Ids held. More are listed again once these are used up."""

RANDOM_CHOICE_MAX = 32
"""While other workers are quicker, a start is tried on one of the oldest jobs at random, of up to this many: if all
took the very oldest, all but one would lose."""

STALE_ENTRIES_MAX = 1_000
"""Entries of the order whose job was taken by another: beyond this many, and more than half, they are swept out."""

WATCHED = (EventType.QUEUED, EventType.STARTED, EventType.CLAIMED, EventType.CANCELLED, EventType.FAILED)
"""The events after which a job may be free, or is not any more."""

LISTED = (State.QUEUED, State.PROCESSING)

PAGE = 1_000
"""Jobs listed with one call: the most that the server gives."""

_UNKNOWN = datetime.min.replace(tzinfo=UTC)

_Place = tuple[datetime, str]
"""A job's place in the order: since when it has been ready, then its id."""


def is_waiting(job: Job) -> bool:
    """Whether the job waits for a start."""
    return job.state is State.QUEUED or (job.state is State.PROCESSING and not job.claimed)


class WaitingJobs:
    """The ids of jobs to try, in the order in which they became ready: created, or due for their retry."""

    def __init__(self) -> None:
        self._free: dict[str, _Place] = {}
        self._order: list[_Place] = []
        """A heap. An entry counts only while it is the job's place in ``_free``."""
        self._choice = 1
        self._overflowed = False

    def __len__(self) -> int:
        return len(self._free)

    @property
    def needs_listing(self) -> bool:
        """Whether there are more jobs than are held here, and those held are used up."""
        return self._overflowed and not self._free

    def listing(self) -> None:
        """A listing begins."""
        self._overflowed = False

    def listing_failed(self) -> None:
        """It has to be done again."""
        self._overflowed = True

    def take_in(self, told: Event | Job) -> bool:
        """Learn of a job. Returns whether there is room for more."""
        job = told.job if isinstance(told, Event) else told
        if not is_waiting(job):
            self._free.pop(job.id, None)
        elif job.id in self._free or len(self._free) < WAITING_JOBS_MAX:
            self._hold(job)
        else:
            self._overflowed = True
        return not self._overflowed

    def _hold(self, job: Job) -> None:
        place = (job.waiting_since or _UNKNOWN, job.id)
        if self._free.get(job.id) == place:
            return
        self._free[job.id] = place
        heapq.heappush(self._order, place)
        if len(self._order) > 2 * len(self._free) + STALE_ENTRIES_MAX:
            self._order = sorted(self._free.values())

    def choose(self) -> str | None:
        """The oldest, or while others are quicker one of the oldest; it is then held no more."""
        oldest: list[_Place] = []
        while self._order and len(oldest) < self._choice:
            place = heapq.heappop(self._order)
            if self._free.get(place[1]) == place:
                oldest.append(place)
        if not oldest:
            return None
        chosen = oldest.pop(random.randrange(len(oldest)))
        for place in oldest:
            heapq.heappush(self._order, place)
        del self._free[chosen[1]]
        return chosen[1]

    def tried(self, *, won: bool) -> None:
        """What came of a choice: after a lost one the next is among twice as many, after one won it is stricter."""
        self._choice = max(1, self._choice - 1) if won else min(RANDOM_CHOICE_MAX, self._choice * 2)
