"""Microseconds ⇄ Timestamp and Duration."""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobstate_server.domain.durations import SECOND
from jobstate_server.wire.framing import embed

_FIELDS_CACHED = 16_384
"""Every event of a job encodes the same times, and a batch has one time, so nearly all are cached. About 4 MB."""


def set_time(target: Timestamp, time: int) -> None:
    """Fill a Timestamp in place. To make one and copy it takes twice as long."""
    seconds, micros = divmod(time, SECOND)
    target.seconds = seconds
    target.nanos = micros * 1_000


def set_span(target: Duration, span: int) -> None:
    """Fill a Duration in place. ``span`` is not negative."""
    seconds, micros = divmod(span, SECOND)
    target.seconds = seconds
    target.nanos = micros * 1_000


@lru_cache(_FIELDS_CACHED)
def time_field(tag: bytes, time: int) -> bytes:
    """An encoded Timestamp as a field of another message."""
    message = Timestamp()
    set_time(message, time)
    return embed(tag, message.SerializeToString())


@lru_cache(_FIELDS_CACHED)
def span_field(tag: bytes, span: int) -> bytes:
    """An encoded Duration as a field of another message. ``span`` is not negative."""
    message = Duration()
    set_span(message, span)
    return embed(tag, message.SerializeToString())


def time_from(message: Timestamp) -> int:
    """Microseconds since the epoch, rounded up, so that a bound between two of our times still separates them."""
    return message.seconds * SECOND - (-message.nanos // 1_000)


def nanos_of(message: Duration) -> int:
    """The duration in nanoseconds, without rounding."""
    return message.seconds * 1_000_000_000 + message.nanos


def span_from(message: Duration) -> int:
    """Microseconds of a duration that is not negative, rounded up, so that a positive duration never becomes 0."""
    return -(-nanos_of(message) // 1_000)
