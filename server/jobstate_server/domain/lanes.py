"""Lanes: which one a job is in, and what counts in a lane.

Jobs of one type and lane share one turn and the limits per lane. The lane of most jobs is the empty one. It is a lane
like any other, but its counts are not stored: they are those of the type less those of the other lanes. So a type whose
jobs are all in the empty lane, and that has no limits, needs no rows for lanes at all.
"""

from __future__ import annotations

from enum import IntEnum
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.limits import LANE_BYTES_MAX
from jobstate_server.domain.values import plain_members
from jobstate_server.domain.waiting import is_ready, is_running

_HASH_LENGTH = 12
"""Characters of the hash at the end of a name that was cut: 48 bits, so that two such names do not meet by accident."""


@plain_members
class LaneFrom(IntEnum):
    """The lane of a job whose Create names none. The numbers are those of ``jobstate.v1.LaneFrom``."""

    NONE = 1
    SOURCE_ID = 2


@plain_members
class LaneHolds(IntEnum):
    """What counts towards ``lane_concurrency``. The numbers are those of ``jobstate.v1.LaneHolds``."""

    ATTEMPT = 1
    JOB = 2


class LaneCounts(NamedTuple):
    """How many jobs of a lane are where. A job is counted at most once, but for ``returned``."""

    ready: int = 0
    """Those that can be handed out."""
    returned: int = 0
    """Of these, those that have had an attempt."""
    running: int = 0
    """Those whose attempt a worker has claimed."""
    resting: int = 0
    """Those that wait for a retry or for a call of Retry."""

    def plus(self, other: LaneCounts) -> LaneCounts:
        """The sums of both."""
        a, b, c, d = self
        e, f, g, h = other
        return lane_counts((a + e, b + f, c + g, d + h))

    def minus(self, other: LaneCounts) -> LaneCounts:
        """What is left of these without the others."""
        a, b, c, d = self
        e, f, g, h = other
        return lane_counts((a - e, b - f, c - g, d - h))


lane_counts = partial(tuple.__new__, LaneCounts)
"""The counts in a tuple, made in a third of the time."""

NOTHING_COUNTED = LaneCounts()

_READY = LaneCounts(ready=1)
_RETURNED = LaneCounts(ready=1, returned=1)
_RUNNING = LaneCounts(running=1)
_RESTING = LaneCounts(resting=1)


def counts_of(job: Job | None) -> LaneCounts:
    """What a job adds to the counts of its lane. Equal counts are the same object."""
    if job is None:
        return NOTHING_COUNTED
    state = job.state
    if state in _AT_REST:
        return _RESTING
    if is_ready(job):
        return _RETURNED if job.attempt else _READY
    return _RUNNING if is_running(job) else NOTHING_COUNTED


_AT_REST = frozenset({JobState.FAILED, JobState.RETRYING})


def lane_from(source: LaneFrom, source_id: str) -> str:
    """The lane of a job whose Create names none."""
    return _fitting(source_id) if source is LaneFrom.SOURCE_ID else ""


def _fitting(name: str) -> str:
    """A name of a lane. One that is too long is cut, and ends with a hash of the whole."""
    encoded = name.encode()
    if len(encoded) <= LANE_BYTES_MAX:
        return name
    cut = encoded[: LANE_BYTES_MAX - _HASH_LENGTH].decode(errors="ignore")
    return cut + blake2b(encoded, digest_size=_HASH_LENGTH // 2).hexdigest()
