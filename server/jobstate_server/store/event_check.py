"""The check of an event, which distinguishes a log from another one with the same sequences."""

from __future__ import annotations

from zlib import crc32


def event_check(payload: bytes) -> int:
    """The CRC-32 of the stored payload of an event."""
    return crc32(payload)
