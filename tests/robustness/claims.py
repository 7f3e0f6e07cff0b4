"""One more promise over recorded histories: every clock of an attempt runs from its claim, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from .history import LogEntry
from .world import HOLDS, World

NEEDS_A_CLAIM = {"PROGRESS", "COMPLETED", "FAILED", "STALE_DETECTED"}
"""What is told of claimed attempts only: their reports, and what the server finds by their clocks."""


def claimed(world: World) -> Iterator[str]:
    """Nothing is reported of an attempt, nor found overdue or stale, before its claim; durations are time since it."""
    before: dict[str, dict[str, Any]] = {}
    for entry in world.history.log:
        job_id, job = entry.event.job_id, entry.job
        yield _wrong(entry, before.get(job_id, {}), job)
        before[job_id] = job


def _wrong(entry: LogEntry, before: dict[str, Any], job: dict[str, Any]) -> str:
    """What is wrong with an event, given the job as the one before it left it."""
    if entry.event.type in NEEDS_A_CLAIM and not job.get("claimed"):
        return f"{entry}: nobody had claimed the attempt"
    if entry.event.type == "CLAIMED" and before.get("claimed"):
        return f"{entry}: the attempt was claimed already"
    if entry.event.type == "DELETED" or "duration" not in job:
        return HOLDS
    ended = entry.previous == "PROCESSING" and entry.event.state != "PROCESSING"
    worked = _time(job["update_time"]) - _time(job["claim_time"]) if ended and job.get("claimed") else timedelta()
    wanted = _span(before.get("duration", "0s")) + worked
    return HOLDS if _span(job["duration"]) == wanted else f"{entry}: the duration should be {wanted}"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _span(text: str) -> timedelta:
    """A Duration as JSON has it, such as 1.5s."""
    return timedelta(microseconds=round(float(text.removesuffix("s")) * 1_000_000))
