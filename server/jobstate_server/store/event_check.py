"""The check of an event, by which a log is told from another one with the same sequences."""

from __future__ import annotations

from zlib import crc32


def event_check(payload: bytes) -> int:
    """The CRC-32 of what the log keeps of an event."""
    return crc32(payload)
