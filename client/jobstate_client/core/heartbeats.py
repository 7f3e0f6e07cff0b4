"""How often a run says that it is alive: several times within the silence that its job type allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobstate_client.core.inspection import JobTypes

HEARTBEAT_S = 30.0
"""Longest silence of a run. Servers come with stale thresholds of five minutes and more."""

HEARTBEAT_S_MIN = 0.1
"""Shortest: the distance that reports of one run keep."""

HEARTBEATS_PER_THRESHOLD = 4
"""A run beats at this fraction of the threshold: three beats arrive within it, so one or two may be lost or late."""

CACHED_S = 60.0
"""How long an answer counts. A server reads its settings when it starts, so a new one may have others."""

LOOKUP_S = 5.0
"""How long asking may take, and how long nobody asks again after it failed. A run does not wait longer to begin."""

DEFAULT = "default"
"""The policy of the job types that the settings do not name."""


class HeartbeatIntervals:
    """The stale thresholds of job types, as last told."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, float] = {}
        self._until = float("-inf")

    @property
    def is_expired(self) -> bool:
        """Whether it is time to ask."""
        return self._clock() >= self._until

    def learn(self, told: JobTypes) -> None:
        """Take in the policies in force."""
        self._known = {each.name: each.stale_threshold.total_seconds() for each in told.types}
        self._until = self._clock() + CACHED_S

    def lookup_failed(self) -> None:
        """Asking failed: what was known stays."""
        self._until = self._clock() + LOOKUP_S

    def heartbeat_s(self, job_type: str) -> float:
        """Silence after which a run of this type is to say that it is alive."""
        threshold = self._known.get(job_type, self._known.get(DEFAULT))
        if not threshold:
            return HEARTBEAT_S
        return max(HEARTBEAT_S_MIN, min(HEARTBEAT_S, threshold / HEARTBEATS_PER_THRESHOLD))
