"""The jobs that wait for a worker, as far as this worker knows.

There is no I/O here. The watch says what changed, and a listing says what was there before. Both may be late; a start
that comes too late is refused without harm.
"""

from __future__ import annotations

import heapq
import random
from datetime import UTC, datetime

from jobstate_client.core.states import EventType, State
from jobstate_client.core.values import Event, Job

WAITING_JOBS_MAX = 10_000
"""Ids held. If there are more, the jobs are listed again when these are used up."""

RANDOM_CHOICE_MAX = 32
"""While other workers are faster, a start is tried on a random one of the oldest jobs, up to this many: if all workers
tried the oldest, all but one would lose."""

STALE_ENTRIES_MAX = 1_000
"""Heap entries of jobs that are not waiting any more: the heap is rebuilt when it has more than these, and more than
half of its entries are stale."""

WATCHED = (EventType.QUEUED, EventType.STARTED, EventType.CLAIMED, EventType.CANCELLED, EventType.FAILED)
"""The events after which a job may begin or cease to wait for a worker."""

LISTED = (State.QUEUED, State.PROCESSING)
"""The states in which a job may be waiting for a worker."""

PAGE_SIZE = 1_000
"""Jobs listed with one call: the most that the server returns."""

_UNKNOWN_TIME = datetime.min.replace(tzinfo=UTC)

_Place = tuple[datetime, str]
"""A job's place in the order: since when it has been waiting, then its id."""


def is_waiting(job: Job) -> bool:
    """Whether the job waits for a worker."""
    return job.state is State.QUEUED or (job.state is State.PROCESSING and not job.claimed)


class WaitingJobs:
    """The ids of the jobs to try, in the order in which they became ready: created, or due for their retry."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._heap: list[_Place] = []
        """An entry counts only while it is the job's place in ``_places``."""
        self._choice = 1
        self._overflowed = False

    def __len__(self) -> int:
        return len(self._places)

    @property
    def needs_listing(self) -> bool:
        """Whether there are more jobs than were held, and those held are used up."""
        return self._overflowed and not self._places

    def listing_started(self) -> None:
        """A listing begins: it will find the jobs that did not fit."""
        self._overflowed = False

    def listing_failed(self) -> None:
        """The listing has to be repeated."""
        self._overflowed = True

    def update(self, item: Event | Job) -> bool:
        """Note the state of a job. Returns whether there is room for more."""
        job = item.job if isinstance(item, Event) else item
        if not is_waiting(job):
            self._places.pop(job.id, None)
        elif job.id in self._places or len(self._places) < WAITING_JOBS_MAX:
            self._hold(job)
        else:
            self._overflowed = True
        return not self._overflowed

    def _hold(self, job: Job) -> None:
        place = (job.waiting_since or _UNKNOWN_TIME, job.id)
        if self._places.get(job.id) == place:
            return
        self._places[job.id] = place
        heapq.heappush(self._heap, place)
        if len(self._heap) > 2 * len(self._places) + STALE_ENTRIES_MAX:
            self._heap = sorted(self._places.values())

    def pop(self) -> str | None:
        """Remove and return the oldest job, or one of the oldest while other workers are faster. None if none waits."""
        oldest: list[_Place] = []
        while self._heap and len(oldest) < self._choice:
            place = heapq.heappop(self._heap)
            if self._places.get(place[1]) == place:
                oldest.append(place)
        if not oldest:
            return None
        chosen = oldest.pop(random.randrange(len(oldest)))
        for place in oldest:
            heapq.heappush(self._heap, place)
        del self._places[chosen[1]]
        return chosen[1]

    def start_tried(self, *, won: bool) -> None:
        """Adapt to the other workers: after a start that came too late, the next is one of twice as many jobs."""
        self._choice = max(1, self._choice - 1) if won else min(RANDOM_CHOICE_MAX, self._choice * 2)
