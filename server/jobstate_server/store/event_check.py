"""The check of an event, which distinguishes a log from another one with the same sequences."""

from __future__ import annotations

from typing import NamedTuple, Protocol
from zlib import crc32

from jobstate_server.domain.events import erased_check, is_erased, is_whole


class Checked(Protocol):
    """What an event is told apart by."""

    @property
    def time(self) -> int: ...
    @property
    def job_id(self) -> str: ...
    @property
    def payload(self) -> bytes: ...


class CheckedEvent(NamedTuple):
    """Of an event only what its check is made from."""

    time: int
    job_id: str
    payload: bytes


def event_check(event: Checked) -> int:
    """The CRC-32 of an event as it was written, with its time and the id of its job. An erased event has kept it."""
    if is_erased(event.payload):
        return erased_check(event.payload)
    check = crc32(event.payload)
    return check if is_whole(event.payload) else crc32(b"%d %b" % (event.time, event.job_id.encode()), check)
