"""What a command changes, as the rules decide it."""

from __future__ import annotations

from typing import NamedTuple

from jobstate_server.domain.commands import Command, Request
from jobstate_server.domain.events import Event
from jobstate_server.domain.job import Attempt, Job


class Change(NamedTuple):
    """What becomes of one job. Tallies, events and rows follow from it."""

    before: Job | None
    """None when the job is created."""
    after: Job | None
    """None once the job is deleted. The same object as ``before`` when nothing changed."""
    events: tuple[Event, ...] = ()
    ended: Attempt | None = None
    """The attempt that this change ended, if it ended one."""
    is_report: bool = False
    """Whether nothing changed but the fields of ``REPORTED``."""
    amended: Attempt | None = None
    """An attempt that had ended before, with the usage that was reported now."""
    request: Request | None = None
    """The request id to remember with the job."""


class Plan(NamedTuple):
    """Everything a command does: all of it or nothing."""

    changes: tuple[Change, ...]
    answered: int = 1
    """How many of the changes, from the first, the caller is answered with. The others follow from them."""
    commands: tuple[Command, ...] | None = None
    """Commands to decide next, each by itself: one that fails stops no other. None for a command that serves no
    selection; its outcome does not say when the next job falls due."""
