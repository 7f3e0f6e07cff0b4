"""What a command changes, as the rules decide it."""

from __future__ import annotations

from typing import NamedTuple

from jobstate_server.domain.events import Event
from jobstate_server.domain.job import Attempt, Job


class Decision(NamedTuple):
    """What a command changes. ``job`` is the job afterwards, None once it is deleted."""

    before: Job | None
    job: Job | None
    events: tuple[Event, ...]
    ended: Attempt | None = None
    """The attempt that this change ended, if it ended one."""
    is_report: bool = False
    """Whether nothing changed but the fields of ``REPORTED``."""
    amended: Attempt | None = None
    """The record of an attempt that had ended before, with the usage that was told of it now."""
