"""What Erase leaves of events."""

from __future__ import annotations

from collections.abc import Iterable

from jobstate_server.domain.events import is_erased
from jobstate_server.domain.filters import EventFilter
from jobstate_server.store.base import Reader
from jobstate_server.store.erasing import ErasedEvent, ErasedLane
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import StoredEvent
from jobstate_server.wire.events import erase_event, has_labels
from jobstate_server.wire.jobs import encode_label

EVENTS_AT_ONCE = 500
"""Events read at once."""

EVENTS_BYTES_MAX = 1024 * 1024
"""Payload read at once."""


def to_erase(reader: Reader, after: int, wanted: EventFilter) -> tuple[list[StoredEvent], int]:
    """The next events that are wanted and not erased, and through which sequence they were looked for.

    ``wanted`` names jobs, sources or labels.
    """
    if wanted.labels:
        parts = [encode_label(label) for label in wanted.labels]
        found, through = reader.search_events(after, parts, EVENTS_AT_ONCE, EVENTS_BYTES_MAX)
        # Other texts may have the same bytes.
        events = [event for event in found if has_labels(event.payload, wanted.labels)]
    else:
        page = reader.events(after, wanted, EVENTS_AT_ONCE, EVENTS_BYTES_MAX)
        events, through = page.events, page.scanned
    return [event for event in events if not is_erased(event.payload)], through


def erased(events: Iterable[StoredEvent]) -> list[tuple[ErasedEvent, ErasedLane]]:
    """What is left of each of these events, and the lane of which it has told."""
    return [_erased(event) for event in events]


def _erased(event: StoredEvent) -> tuple[ErasedEvent, ErasedLane]:
    left = erase_event(event.payload, event_check(event))
    return ErasedEvent(event.sequence, left.payload), ErasedLane(event.job_type, left.lane, left.hold_reason)
