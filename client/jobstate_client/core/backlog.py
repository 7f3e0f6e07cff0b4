"""What a worker could start: jobs that were told to be free, until somebody is told to have taken them.

No I/O happens here. The watch says what changed, a listing says what was there before; either may be late, and a start
that comes too late is refused without harm.
"""

from __future__ import annotations

import random

from jobstate_client.core.states import EventType, State
from jobstate_client.core.values import Event, Job

CANDIDATES_MAX = 10_000
"""Ids held. More are listed again once these are used up."""

CHOICE = 32
"""A start is tried on one of this many oldest jobs, at random: if all took the oldest, all but one would lose."""

WATCHED = (EventType.QUEUED, EventType.STARTED, EventType.CLAIMED, EventType.CANCELLED, EventType.FAILED)
"""The events after which a job may be free, or is not any more."""

LISTED = (State.QUEUED, State.PROCESSING)


def is_free(job: Job) -> bool:
    """Whether the job waits for a start."""
    return job.state is State.QUEUED or (job.state is State.PROCESSING and not job.claimed)


class Backlog:
    """The ids of jobs to try, the oldest first."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}
        self._overflowed = False

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def needs_listing(self) -> bool:
        """Whether there are more jobs than are held here, and those held are used up."""
        return self._overflowed and not self._ids

    def listing(self) -> None:
        """A listing begins."""
        self._overflowed = False

    def listing_failed(self) -> None:
        """It has to be done again."""
        self._overflowed = True

    def take_in(self, told: Event | Job) -> bool:
        """Learn of a job. Returns whether there is room for more."""
        job = told.job if isinstance(told, Event) else told
        if not is_free(job):
            self._ids.pop(job.id, None)
        elif len(self._ids) < CANDIDATES_MAX:
            self._ids[job.id] = None
        else:
            self._overflowed = True
        return not self._overflowed

    def choose(self) -> str | None:
        """One of the oldest, which is then held no more."""
        if not self._ids:
            return None
        oldest = [job_id for job_id, _ in zip(self._ids, range(CHOICE), strict=False)]
        chosen = random.choice(oldest)
        del self._ids[chosen]
        return chosen
