"""Which progress events a watcher that asked for the latest only is sent."""

from __future__ import annotations

from collections.abc import Sequence

from jobstate_server.domain.events import EventType
from jobstate_server.event_log.recent import LogEntry
from jobstate_server.wire.watch import carries_metadata


def latest_progress(entries: Sequence[LogEntry]) -> list[LogEntry]:
    """The events without progress that a later one of the same job supersedes.

    Progress that carries metadata is superseded only by progress that carries it too, because the later event does not
    say what the earlier one set.
    """
    kept = []
    superseded: dict[str, bool] = {}
    """Jobs of which later progress is kept, and whether some of it carries metadata."""
    for entry in reversed(entries):
        event = entry.event
        if event.type == EventType.PROGRESS:
            has_metadata = carries_metadata(event.type, event.payload)
            later = superseded.get(event.job_id)
            if later is not None and (later or not has_metadata):
                continue
            superseded[event.job_id] = has_metadata or bool(later)
        kept.append(entry)
    kept.reverse()
    return kept
