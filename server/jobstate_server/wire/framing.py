"""Protobuf's own wire format, as far as encoded messages are put together without decoding them.

A message is a concatenation of fields; a field given twice is merged (messages) or replaced (numbers) by whoever
parses. So an encoded event can be finished by appending its sequence, and a list of encoded messages is their
concatenation.
Source: protobuf.dev, "Encoding", sections "Message Structure" and "Last One Wins".
"""

from __future__ import annotations

_VARINT = 0
_LENGTH_DELIMITED = 2


def varint(value: int) -> bytes:
    """A non-negative integer as a varint."""
    return _SMALL[value] if value < _SMALL_COUNT else _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL_COUNT = 2_048
"""Tags, and the lengths of all but the largest jobs and events: looked up, not computed."""

_SMALL = tuple(map(_varint, range(_SMALL_COUNT)))


def varint_tag(field: int) -> bytes:
    """The tag of an integer field."""
    return varint(field << 3 | _VARINT)


def length_tag(field: int) -> bytes:
    """The tag of a message, string or bytes field."""
    return varint(field << 3 | _LENGTH_DELIMITED)


def embed(tag: bytes, message: bytes) -> bytes:
    """An encoded message as a field of another."""
    return b"%b%b%b" % (tag, varint(len(message)), message)
