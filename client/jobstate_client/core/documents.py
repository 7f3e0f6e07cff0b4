"""Free JSON: dicts to and from ``google.protobuf.Struct``, and times and spans to and from theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from jobstate_client.core.values import Span

EXACT_MAX = 2**53
"""Numbers travel as doubles: a greater integer would arrive as another one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def struct_from(document: Mapping[str, Any], name: str) -> Struct:
    """The document as it travels.

    Raises:
        TypeError: it holds what JSON does not have, or a key that is not a text.
        ValueError: it holds a number that does not travel unharmed.
    """
    struct = Struct()
    for key, value in document.items():
        _fill(struct.fields[_key(key, name)], value, f"{name}.{key}")
    return struct


def _key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{path}: keys must be texts, not {type(key).__name__}")
    return key


def _fill(target: Value, value: Any, path: str) -> None:
    match value:
        case None:
            target.null_value = NULL_VALUE
        case bool():
            target.bool_value = value
        case str():
            target.string_value = value
        case int() | float():
            if not math.isfinite(value) or (isinstance(value, int) and abs(value) > EXACT_MAX):
                raise ValueError(f"{path}: {value} cannot be kept exactly; make it a text")
            target.number_value = value
        case Mapping():
            # Touched, so that an empty object is not lost.
            target.struct_value.SetInParent()
            for key, inner in value.items():
                _fill(target.struct_value.fields[_key(key, path)], inner, f"{path}.{key}")
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            target.list_value.SetInParent()
            for index, inner in enumerate(value):
                _fill(target.list_value.values.add(), inner, f"{path}[{index}]")
        case _:
            raise TypeError(f"{path}: a {type(value).__name__} is not JSON")


def dict_from(struct: Struct) -> dict[str, Any]:
    """The document as a dict. Numbers without a fraction come as int."""
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
    """The moment, in UTC, rounded down to microseconds."""
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)


def span_from(message: Duration) -> timedelta:
    """The span."""
    return timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)


def timestamp(moment: datetime) -> Timestamp:
    """The moment as it travels. Raises ValueError when it does not say in which time zone it is."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; give one, such as datetime.UTC")
    span = moment - _EPOCH
    return Timestamp(seconds=span // timedelta(seconds=1), nanos=span.microseconds * 1_000)


def duration(span: Span) -> Duration:
    """The span as it travels."""
    exact = span if isinstance(span, timedelta) else timedelta(seconds=span)
    message = Duration()
    message.FromTimedelta(exact)
    return message


def seconds(span: Span) -> float:
    """The span in seconds."""
    return span.total_seconds() if isinstance(span, timedelta) else float(span)
