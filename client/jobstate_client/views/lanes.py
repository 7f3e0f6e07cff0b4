"""Lanes, limits and pauses in words, for people."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jobstate_client.views.text import count, long_span, span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Lane, Rate


def lane_name(lane: str) -> str:
    """The name of a lane, in quotes if blanks would not be seen otherwise, or if it is empty."""
    return lane if lane and lane == lane.strip() else f"'{lane}'"


def lane_note(lane: Lane, lanes_max: int, now: datetime) -> str:
    """Why nothing of a lane is handed out; empty if it is. ``lanes_max`` is its type's lane_concurrency, 0 if none."""
    notes = []
    if lane.paused:
        notes.append(f"paused: {lane.pause_reason}" if lane.pause_reason else "paused")
    if lane.held_until_time is not None:
        # The server's clock may be behind ours.
        notes.append(f"held for {span(max(timedelta(), lane.held_until_time - now))}")
    if lanes_max and lane.running >= lanes_max:
        notes.append("full")
    return ", ".join(notes)


def rate_text(rate: Rate | None) -> str:
    """A rate as the settings have it, such as 600/1m; empty if there is none."""
    return "" if rate is None else f"{count(rate.count)}/{long_span(round(rate.period.total_seconds()))}"
