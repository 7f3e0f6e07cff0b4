"""Converts documents (free JSON), times and spans between Python and protobuf."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from jobstate_client.core.limits import DOCUMENT_BYTES_MAX, NESTING_MAX, SPAN_S_MAX
from jobstate_client.core.values import Span
from jobstate_client.errors import InvalidField

PATH_CHARACTERS_MAX = 200
"""Characters of a path that a message shows."""

EXACT_MAX = 2**53
"""Numbers are sent as doubles: a greater integer would arrive as a different one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def struct_from(document: Mapping[str, Any], name: str, bytes_max: int = DOCUMENT_BYTES_MAX) -> Struct:
    """The document as a Struct.

    Raises:
        TypeError: it is not a mapping, or contains a value that is not JSON, or a key that is not a text.
        ValueError: it contains a number or a text that cannot be sent exactly.
        InvalidField: it is nested too deep, or too large.
        Exception: any exception that reading it raised.
    """
    if not isinstance(document, Mapping):
        raise TypeError(f"{name}: must be a dict, not a {type(document).__name__}")
    struct = Struct()
    builder = _StructBuilder(name, bytes_max)
    for key, value in document.items():
        builder.fill(struct.fields[builder.key(key, name)], value, f"{name}.{key}", 1)
    check_size(name, struct.ByteSize(), bytes_max)
    return struct


def check_size(name: str, size: int, bytes_max: int) -> None:
    """Raise InvalidField if an encoded document is too large."""
    if size > bytes_max:
        raise invalid(name, f"has {size} bytes encoded, at most {bytes_max} are stored")


def invalid(name: str, problem: str) -> InvalidField:
    """The error that the server would return for this field."""
    message = f"{name}: {problem}"
    return InvalidField(message, {"field": name}, violations=((name, message),))


def printable(path: object) -> str:
    """A path of keys for a message: cut, and encodable, because the keys are the caller's and may be anything."""
    return str(path)[:PATH_CHARACTERS_MAX].encode("utf-8", "backslashreplace").decode()


def cut(text: str, bytes_max: int) -> str:
    """The text as it can be sent, cut to this size. NUL and half characters are replaced: the server refuses them."""
    # As a plain str: a subclass may override encode and replace.
    clean = str.encode(str.replace(text, "\0", "\ufffd"), "utf-8", "replace")
    return clean[:bytes_max].decode("utf-8", "ignore")


class _StructBuilder:
    """Builds the Struct of one document, and stops when it becomes too large."""

    def __init__(self, name: str, bytes_max: int) -> None:
        self._name = name
        self._bytes_max = bytes_max
        self._size = 0
        """A lower bound of its bytes, counted while building: objects that contain each other many times over would
        make any number of copies."""

    def key(self, key: object, path: str) -> str:
        if type(key) is str and key.isascii():
            self._count(len(key))
            return key
        if not isinstance(key, str):
            raise TypeError(f"{printable(path)}: keys must be texts, not {type(key).__name__}")
        return self._text(key, path)

    def fill(self, target: Value, value: Any, path: str, depth: int) -> None:
        # The most common kinds first, because they are quick to recognize.
        kind = type(value)
        if kind is str and value.isascii():
            self._count(2 + len(value))
            target.string_value = value
            return
        self._count(2)
        if kind is int and -EXACT_MAX <= value <= EXACT_MAX:
            target.number_value = value
            return
        match value:
            case None:
                target.null_value = NULL_VALUE
            case bool():
                target.bool_value = value
            case str():
                target.string_value = self._text(value, path)
            case int() | float():
                target.number_value = self._number(value, path)
            case Mapping():
                self._nest(depth)
                # Set, so that an empty object is not lost.
                target.struct_value.SetInParent()
                for key, inner in value.items():
                    text = self.key(key, path)
                    self.fill(target.struct_value.fields[text], inner, f"{path}.{text}", depth + 1)
            case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
                self._nest(depth)
                target.list_value.SetInParent()
                for index, inner in enumerate(value):
                    self.fill(target.list_value.values.add(), inner, f"{path}[{index}]", depth + 1)
            case _:
                raise TypeError(f"{printable(path)}: a {type(value).__name__} is not JSON")

    def _nest(self, depth: int) -> None:
        if depth >= NESTING_MAX:
            raise invalid(self._name, f"is nested deeper than {NESTING_MAX} levels")

    def _text(self, text: str, path: str) -> str:
        self._count(len(text))
        if type(text) is str and text.isascii():
            return text
        # As a plain str: a subclass may override encode. protobuf would refuse the text without naming the path.
        try:
            str.encode(text, "utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{printable(path)}: holds half a character ({error.reason}) and cannot be sent") from None
        return text

    @staticmethod
    def _number(value: int | float, path: str) -> float:
        if isinstance(value, int) and not -EXACT_MAX <= value <= EXACT_MAX:
            text = str(value) if -(10**40) < value < 10**40 else f"a number of {value.bit_length()} bits"
            raise ValueError(f"{printable(path)}: {text} cannot be kept exactly; make it a text")
        if not math.isfinite(value):
            raise ValueError(f"{printable(path)}: {value} cannot be kept exactly; make it a text")
        return value

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._bytes_max:
            raise invalid(self._name, f"has more than {self._bytes_max} bytes encoded, and no more are stored")


def dict_from(struct: Struct) -> dict[str, Any]:
    """The document as a dict. Numbers without a fraction become int."""
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= EXACT_MAX else number
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return dict_from(value.struct_value)
        case "list_value":
            return [_plain(inner) for inner in value.list_value.values]
    return None


def time_from(message: Timestamp) -> datetime:
    """The time, in UTC, rounded down to microseconds."""
    return _EPOCH + timedelta(0, message.seconds, message.nanos // 1_000)


def span_from(message: Duration) -> timedelta:
    """The span."""
    return timedelta(0, message.seconds, message.nanos // 1_000)


def timestamp(moment: datetime) -> Timestamp:
    """The time as a Timestamp. Raises ValueError if it has no time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; give one, such as datetime.UTC")
    span = moment - _EPOCH
    return Timestamp(seconds=span // timedelta(seconds=1), nanos=span.microseconds * 1_000)


def duration(span: Span, name: str = "span") -> Duration:
    """The span as a Duration. Raises the same errors as ``seconds``."""
    number = seconds(span, name)
    exact = span if isinstance(span, timedelta) else timedelta(seconds=number)
    message = Duration()
    message.FromTimedelta(exact)
    return message


def seconds(span: Span, name: str = "span") -> float:
    """The span in seconds.

    Raises:
        TypeError: it is neither a timedelta nor a number.
        ValueError: it is not a number, or beyond what can be sent.
    """
    number: Any = span.total_seconds() if isinstance(span, timedelta) else span
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be a timedelta or a number of seconds, not {type(number).__name__}")
    if not -SPAN_S_MAX <= number <= SPAN_S_MAX:
        # An integer is left out: Python refuses to print one of thousands of digits.
        value = f", not {number}" if isinstance(number, float) else ""
        raise ValueError(f"{name} must be a number of seconds within thirty years{value}")
    return float(number)
