"""The check of an event, which distinguishes a log from another one with the same sequences."""

from __future__ import annotations

from zlib import crc32

from jobstate_server.domain.events import is_whole


def event_check(job_id: str, payload: bytes) -> int:
    """The CRC-32 of an event as it is stored, with the id of its job."""
    check = crc32(payload)
    return check if is_whole(payload) else crc32(job_id.encode(), check)
