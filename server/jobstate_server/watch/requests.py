"""What watchers ask for, and what they have of the memory for responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.filters import EventFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a watcher asked for."""

    wanted: EventFilter
    cursor: str = ""
    """Where to go on; empty begins at ``earliest`` or at the head."""
    earliest: bool = False
    snapshot: bool = False
    follow: bool = True
    until_final: bool = False
    latest_progress: bool = False
    heartbeat_interval: int = 30 * SECOND


class Unread(Protocol):
    """What the unread responses of one stream hold of the memory that there is for those of all."""

    held: int
    unread_since: float | None

    async def take(self, size: int) -> None:
        """Hold this many bytes more, once there is room for them."""

    def resize(self, old: int, new: int) -> None:
        """Hold other bytes in place of some that were taken."""
