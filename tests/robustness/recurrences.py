"""A promise about recurring jobs over recorded histories."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from .history import LogEntry
from .world import HOLDS, World

RECURRING = "each-minute"
"""The name of the entry that the servers of a run have."""

FORM = "%Y-%m-%dT%H:%M:%SZ"


def is_recurring(entry: LogEntry) -> bool:
    """Whether the server has created this job by its settings."""
    return entry.event.job_id.startswith(f"{RECURRING}-")


def recurred(world: World) -> Iterator[str]:
    """Each instant has one job, over all servers, kills and clocks that are set back, though that job was deleted."""
    created: dict[str, LogEntry] = {}
    for entry in world.history.log:
        if entry.event.type == "QUEUED" and is_recurring(entry):
            first = created.setdefault(entry.event.job_id, entry)
            instant = datetime.strptime(entry.event.job_id.removeprefix(f"{RECURRING}-"), FORM)
            holds = first is entry and entry.actor == "server" and not instant.second
            yield HOLDS if holds else f"{entry}: its instant had {first} already, or is none"
