"""The wire format of Protobuf, as far as it is needed to join encoded messages without decoding them.

A message is a concatenation of fields. If a field occurs twice, the parser merges it (messages) or takes the last one
(numbers). So an encoded event is completed by appending its sequence, and a list of encoded messages is their
concatenation.
Source: protobuf.dev, "Encoding", sections "Message Structure" and "Last One Wins".
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

_VARINT = 0
_FIXED64 = 1
_LENGTH_DELIMITED = 2


def varint(value: int) -> bytes:
    """A non-negative integer as a varint."""
    return _SMALL[value] if value < _SMALL_COUNT else _varint(value)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += _CONTINUED[value & 127]
        value >>= 7
    return out + _LAST[value]


_LAST = tuple(bytes([digit]) for digit in range(128))
_CONTINUED = tuple(bytes([digit | 128]) for digit in range(128))
"""The bytes of a varint: seven bits each, and whether more follow."""

_SMALL_COUNT = 2_048
"""Tags, and the lengths of all but the largest jobs and events, are looked up instead of computed."""

_SMALL = tuple(map(_varint, range(_SMALL_COUNT)))


def varint_tag(field: int) -> bytes:
    """The tag of an integer field."""
    return varint(field << 3 | _VARINT)


def double_tag(field: int) -> bytes:
    """The tag of a floating-point field."""
    return varint(field << 3 | _FIXED64)


def length_tag(field: int) -> bytes:
    """The tag of a message, string or bytes field."""
    return varint(field << 3 | _LENGTH_DELIMITED)


TRUE = varint(1)
"""The value of a boolean field. One that is false is not encoded."""

double = Struct("<d").pack
"""The value of a floating-point field."""


def embed(tag: bytes, message: bytes) -> bytes:
    """An encoded message as a field of another."""
    return b"%b%b%b" % (tag, varint(len(message)), message)


def text(tag: bytes, value: str) -> bytes:
    """A text as a field of a message. Empty for an empty text, which is not encoded.

    Raises:
        UnicodeEncodeError: half of a surrogate pair.
    """
    if not value:
        return b""
    encoded = value.encode()
    return b"%b%b%b" % (tag, varint(len(encoded)), encoded)


def prefixes(tag: bytes, count: int) -> tuple[bytes, ...]:
    """The tag and length before a text, for each of so many lengths. Nothing before an empty text, which is not
    encoded."""
    return (b"", *[tag + varint(length) for length in range(1, count)])


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The number and value of each top-level field, in order. The value of a varint is an int, all others are bytes.

    It does not parse the bytes of a field.

    Raises:
        ValueError: these bytes are not a message of any type.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _read_varint(message, at)
        match tag & 7:
            case 0:
                number, at = _read_varint(message, at)
                yield tag >> 3, number
                continue
            case 1:
                length = 8
            case 2:
                length, at = _read_varint(message, at)
            case 5:
                length = 4
            case _:
                # A group, which proto3 does not have.
                raise ValueError("a field of an unknown kind")
        if at + length > end:
            raise ValueError("a field is cut short")
        yield tag >> 3, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The varint that begins at ``at``, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise ValueError("a number without an end")
