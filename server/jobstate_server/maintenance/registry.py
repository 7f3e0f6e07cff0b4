"""The maintenance tasks of a server. A new task is one more schedule and one more entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from jobstate_server.clock import Clock
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.due_timer import DueTimer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.check_health import CheckHealth
from jobstate_server.maintenance.check_stale import CheckStale
from jobstate_server.maintenance.cleanup import Cleanup
from jobstate_server.maintenance.crontab import Crontab
from jobstate_server.maintenance.evict_inactive import EvictInactive
from jobstate_server.maintenance.job_health import HealthLimits
from jobstate_server.maintenance.retry_failed import RetryFailed
from jobstate_server.maintenance.task import Task


class Schedules(BaseModel):
    """When the tasks run, as crontab expressions in UTC. A table of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check_stale: Crontab = "*/5 * * * *"
    retry_failed: Crontab = "*/10 * * * *"
    evict_inactive: Crontab = "0 * * * *"
    cleanup: Crontab = "0 2 * * *"
    check_health: Crontab = "*/2 * * * *"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceLimits:
    """The settings that tasks follow. Spans are microseconds."""

    job_retention: int
    event_retention: int
    event_retention_bytes: int
    health: HealthLimits


class Tasks:
    """Every task, by its name."""

    def __init__(
        self,
        schedules: Schedules,
        limits: MaintenanceLimits,
        committer: Committer,
        readers: Readers,
        clock: Clock,
        *,
        due_timer: DueTimer,
        job_types: JobTypes,
        on_jobs_health: Callable[[bool], None],
    ) -> None:
        """``on_jobs_health`` is called after each scheduled check-health, with whether it found nothing wrong."""
        self.check_stale = CheckStale(schedules.check_stale, committer, readers, job_types, clock)
        self.retry_failed = RetryFailed(schedules.retry_failed, committer, readers, job_types, due_timer)
        self.evict_inactive = EvictInactive(schedules.evict_inactive, committer, clock)
        self.cleanup = Cleanup(
            schedules.cleanup,
            committer,
            readers,
            clock,
            job_retention=limits.job_retention,
            event_retention=limits.event_retention,
            event_retention_bytes=limits.event_retention_bytes,
        )
        self.check_health = CheckHealth(
            schedules.check_health, committer, readers, clock, on_jobs_health, limits.health
        )

    @property
    def all(self) -> tuple[Task, ...]:
        """The tasks, in the order in which ListTasks returns them."""
        return tuple(vars(self).values())
