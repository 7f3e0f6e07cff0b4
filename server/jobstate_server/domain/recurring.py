"""Jobs that the server creates at instants: each instant has one job, whichever server creates it."""

from __future__ import annotations

from typing import NamedTuple

from jobstate_server.domain.caller import SERVER, Caller
from jobstate_server.domain.commands import Command, Create
from jobstate_server.domain.durations import DAY
from jobstate_server.domain.reads import Reads
from jobstate_server.domain.values import value

INSTANT_AHEAD_MAX = 1 * DAY
"""How far ahead of the clock an instant may be that has its job already: clocks that were wrong by less than a day and
are set right make no instant twice. An instant further ahead is ignored, or its entry would stand still until then."""


class TakenInstant(NamedTuple):
    """An instant that has its job."""

    task: str
    """The name under which the instants are stored."""
    due: int
    job_id: str
    replica: str
    """The server that has created the job."""


@value
class CreateRecurring(Command):
    """Create the job of an instant, unless this instant, or a later one, has its job."""

    create: Create
    task: str
    due: int
    """The instant, by the wall clock."""
    ahead: int = 0
    """By how much the store's time is ahead of the wall clock."""
    replica: str = ""
    caller: Caller = SERVER

    def add_reads(self, reads: Reads) -> None:
        self.create.add_reads(reads)
        reads.tasks.add(self.task)
