"""How often a run sends a heartbeat: several times within its lease, or the stale threshold of its job type."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobstate_client.core.inspection import JobTypes

HEARTBEAT_S_MAX = 30.0
"""Longest interval. Servers come with stale thresholds of five minutes and more."""

HEARTBEAT_S_MIN = 0.1
"""Shortest interval: the shortest time between two reports of one run."""

HEARTBEATS_PER_THRESHOLD = 4
"""Heartbeats within a stale threshold: three arrive before it has passed, so one or two may be lost or late."""

CACHE_S = 60.0
"""How long the policies are cached. A server reads its settings when it starts, so another one may have others."""

LOOKUP_TIMEOUT_S = 5.0
"""How long a lookup of the policies may take, and how long after a failed one the next is made. A run waits no longer
to begin."""

DEFAULT_JOB_TYPE = "default"
"""The policy of the job types that the settings do not name."""


def interval_within(silence_s: float) -> float:
    """The heartbeat interval of an attempt that fails after this long without a report."""
    return max(HEARTBEAT_S_MIN, min(HEARTBEAT_S_MAX, silence_s / HEARTBEATS_PER_THRESHOLD))


def keeping_lease(asked_s: float, lease: timedelta | None) -> float:
    """The interval that was asked for, or the longest that keeps the lease."""
    return asked_s if lease is None else min(asked_s, lease.total_seconds() / HEARTBEATS_PER_THRESHOLD)


class HeartbeatIntervals:
    """The heartbeat intervals of job types, from their stale thresholds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thresholds: dict[str, float] = {}
        self._expires_at = float("-inf")

    @property
    def has_expired(self) -> bool:
        """Whether the policies have to be looked up."""
        return self._clock() >= self._expires_at

    def update(self, job_types: JobTypes) -> None:
        """Cache the stale thresholds of these policies."""
        self._thresholds = {each.name: each.stale_threshold.total_seconds() for each in job_types.types}
        self._expires_at = self._clock() + CACHE_S

    def lookup_failed(self) -> None:
        """Keep what was cached until the next lookup."""
        self._expires_at = self._clock() + LOOKUP_TIMEOUT_S

    def interval_s(self, job_type: str) -> float:
        """The heartbeat interval of a run of this type."""
        threshold = self._thresholds.get(job_type, self._thresholds.get(DEFAULT_JOB_TYPE))
        return interval_within(threshold) if threshold else HEARTBEAT_S_MAX
