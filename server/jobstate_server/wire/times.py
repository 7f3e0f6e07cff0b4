"""Microseconds ⇄ Timestamp and Duration."""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobstate_server.domain.durations import SECOND
from jobstate_server.wire.framing import varint, varint_tag

_SECONDS = varint_tag(Timestamp.SECONDS_FIELD_NUMBER)
_NANOS = varint_tag(Timestamp.NANOS_FIELD_NUMBER)
"""A Duration has the same two fields with the same numbers."""

_TIMES_CACHED = 16_384
"""Every event of a job encodes the same times, and a batch has one time, so nearly all are cached. About 3 MB."""

_SECONDS_CACHED = 1_024
"""Most times are within minutes of each other."""


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


def encoded_span(span: int) -> bytes:
    """The value of a field that is a Duration: its length, and the encoded message. ``span`` is not negative."""
    if not span:
        return b"\0"
    seconds, micros = divmod(span, SECOND)
    encoded = _encoded_seconds(seconds) + (_NANOS + varint(micros * 1_000) if micros else b"")
    return varint(len(encoded)) + encoded


encoded_time = lru_cache(_TIMES_CACHED)(encoded_span)
"""The value of a field that is a Timestamp, not before 1970. It is encoded like a Duration."""


def exact_time(time: int) -> bytes:
    """Like ``encoded_time``, with both fields even if they are zero, so that a parser that merges it takes both."""
    seconds, micros = divmod(time, SECOND)
    encoded = _SECONDS + varint(seconds) + _NANOS + varint(micros * 1_000)
    return varint(len(encoded)) + encoded


@lru_cache(_SECONDS_CACHED)
def _encoded_seconds(seconds: int) -> bytes:
    return _SECONDS + varint(seconds) if seconds else b""


def time_from(message: Timestamp) -> int:
    """Microseconds since the epoch, rounded up, so that a bound between two of our times still separates them."""
    return message.seconds * SECOND - (-message.nanos // 1_000)


def nanos_of(message: Duration) -> int:
    """The duration in nanoseconds, without rounding."""
    return message.seconds * 1_000_000_000 + message.nanos


def span_from(message: Duration) -> int:
    """Microseconds of a duration that is not negative, rounded up, so that a positive duration never becomes 0."""
    return -(-nanos_of(message) // 1_000)
