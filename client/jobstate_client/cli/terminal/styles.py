"""The colours of states and events."""

from __future__ import annotations

from jobstate_client.core.states import EventType, State

STATE_STYLES = {
    State.QUEUED: "blue",
    State.PROCESSING: "cyan",
    State.COMPLETED: "green",
    State.FAILED: "red",
    State.RETRYING: "yellow",
    State.PERMANENTLY_FAILED: "bold red",
    State.CANCELLED: "magenta",
}

EVENT_STYLES = {
    EventType.QUEUED: STATE_STYLES[State.QUEUED],
    EventType.READY: STATE_STYLES[State.QUEUED],
    EventType.WAITING: STATE_STYLES[State.QUEUED],
    EventType.STARTED: STATE_STYLES[State.PROCESSING],
    EventType.CLAIMED: STATE_STYLES[State.PROCESSING],
    EventType.COMPLETED: STATE_STYLES[State.COMPLETED],
    EventType.FAILED: STATE_STYLES[State.FAILED],
    EventType.RETRYING: STATE_STYLES[State.RETRYING],
    EventType.PERMANENTLY_FAILED: STATE_STYLES[State.PERMANENTLY_FAILED],
    EventType.CANCELLED: STATE_STYLES[State.CANCELLED],
    EventType.RELEASED: STATE_STYLES[State.RETRYING],
    EventType.STALE_DETECTED: STATE_STYLES[State.RETRYING],
}
"""Events of other types are dim."""
