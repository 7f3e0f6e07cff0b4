"""What Erase leaves of events."""

from __future__ import annotations

from collections.abc import Iterable

from jobstate_server.store.erasing import ErasedEvent, ErasedLane
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import StoredEvent
from jobstate_server.wire.events import erase_event


def erased(events: Iterable[StoredEvent]) -> list[tuple[ErasedEvent, ErasedLane]]:
    """What is left of each of these events, and the lane of which it has told."""
    return [_erased(event) for event in events]


def _erased(event: StoredEvent) -> tuple[ErasedEvent, ErasedLane]:
    left = erase_event(event.payload, event_check(event))
    return ErasedEvent(event.sequence, left.payload), ErasedLane(event.job_type, left.lane, left.hold_reason)
