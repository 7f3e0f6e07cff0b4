"""An entry ``[[recurring]]`` of the settings: which job to create, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import Create
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.job import Document
from jobstate_server.domain.waiting import Priority
from jobstate_server.store.task_runs import RECURRING


class Missed(IntEnum):
    """What becomes of instants that came while no server ran."""

    NONE = 0
    """They have no jobs."""
    ONE = 1
    """The latest of them has one, at the next start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurringEntry:
    """A recurring entry."""

    name: str
    schedule: str
    """A crontab expression, in the time zone."""
    time_zone: str
    job_type: str
    source_id: str = ""
    metadata: Document = b""
    level: int = Priority.NORMAL
    lane: str | None = None
    """None means as the job type's lane_from says."""
    labels: str | None = None
    """As in ``domain.labels``."""
    missed: Missed = Missed.ONE

    @property
    def task(self) -> str:
        """The name under which its instants are stored."""
        return RECURRING + self.name

    @property
    def definition(self) -> str:
        """What its instants follow from. Another definition has missed nothing yet."""
        return f"{self.schedule} {self.time_zone}"

    def job_id(self, due: int) -> str:
        """The id of the job of an instant. It says when the job was due, whenever it was created."""
        return f"{self.name}-{datetime.fromtimestamp(due // SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}"

    def create(self, due: int) -> Create:
        """What creates the job of an instant."""
        return Create(
            self.job_id(due),
            SERVER,
            job_type=self.job_type,
            source_id=self.source_id,
            metadata=self.metadata,
            level=self.level,
            lane=self.lane,
            labels=self.labels,
        )
