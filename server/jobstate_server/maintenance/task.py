"""What every duty is: a name, a schedule, and one run that reports what it did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

SLICE_COMMANDS_MAX = 100
"""Commands a duty has in the committer at once: some 10 ms of work, so that callers never wait behind a sweep."""

SCAN_JOBS_MAX = 500
"""Jobs read at once by a sweep."""

JOB_IDS_TOLD_MAX = 100
"""Job ids a report names: enough to look at, never a large answer."""

StillOurs = Callable[[], Awaitable[bool]]
"""Asked before every slice: whether this run still holds the duty. Another replica takes over a run that seems dead."""


async def always_ours() -> bool:
    """For a run that somebody asked for: nobody else runs it."""
    return True


@dataclass(slots=True)
class Report:
    """What a run did, or would have done."""

    count: int = 0
    job_ids: list[str] = field(default_factory=list)
    """The first of the jobs concerned."""
    events: int = 0
    requests: int = 0

    def add(self, job_id: str) -> None:
        """Count a job."""
        self.count += 1
        if len(self.job_ids) < JOB_IDS_TOLD_MAX:
            self.job_ids.append(job_id)


class Duty(Protocol):
    """A periodic duty."""

    name: str
    schedule: str
    """When it runs, as a crontab expression in UTC."""

    async def run_scheduled(self, still_ours: StillOurs) -> str:
        """One run, reported in words."""
