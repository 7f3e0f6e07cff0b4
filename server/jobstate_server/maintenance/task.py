"""The interface of a maintenance task: a name, a schedule, and a run that reports what it did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

JOB_IDS_RETURNED_MAX = 100
"""Job ids in a result: enough to inspect, never a large answer."""

StillClaimed = Callable[[], Awaitable[bool]]
"""Asked before every slice: whether this run still holds the task. Another replica takes over a run that seems dead."""


async def always_claimed() -> bool:
    """For a run that a caller asked for: no other replica takes it over."""
    return True


@dataclass(slots=True)
class TaskResult:
    """What a run did, or would have done."""

    count: int = 0
    job_ids: list[str] = field(default_factory=list)
    """The first of the jobs concerned, at most ``JOB_IDS_RETURNED_MAX``."""
    events: int = 0
    requests: int = 0

    def add(self, job_id: str) -> None:
        """Count a job."""
        self.count += 1
        if len(self.job_ids) < JOB_IDS_RETURNED_MAX:
            self.job_ids.append(job_id)


class Task(Protocol):
    """A task that runs by its schedule."""

    name: str
    schedule: str
    """When it runs, as a crontab expression in UTC."""

    async def run_scheduled(self, still_claimed: StillClaimed) -> str:
        """Run once. Returns a text that says what was done."""
