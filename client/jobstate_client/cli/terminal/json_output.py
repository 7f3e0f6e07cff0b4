"""Values as JSON for programs: every key is present, times are RFC 3339, spans are seconds, 64-bit numbers are texts.

Everything beyond ASCII is escaped, so that it is safe for every terminal and locale.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any

from jobstate_client.core.lazy import decode_all
from jobstate_client.core.states import CancelCause, LaneFrom, LaneHolds, Priority, State, WaitReason
from jobstate_client.views.text import exact


@functools.cache
def int64_fields() -> frozenset[str]:
    """The fields that are int64 in the contract.

    They are texts, as in the JSON format of protobuf: JavaScript, jq and many others have no integers beyond 2^53, and
    would round them silently.
    """
    from jobstate.v1 import dispatch_service_pb2, event_pb2, job_pb2, job_service_pb2, maintenance_service_pb2

    return frozenset(
        field.name
        for module in (dispatch_service_pb2, event_pb2, job_pb2, job_service_pb2, maintenance_service_pb2)
        for message in module.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.cpp_type == field.CPPTYPE_INT64
    )


def plain(value: Any) -> Any:
    """The value as JSON types."""
    match value:
        case datetime():
            return exact(value)
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
    if is_dataclass(value):
        decode_all(value)
        return {field.name: _field(field.name, getattr(value, field.name)) for field in fields(value)}
    return value


_NONE = (CancelCause.UNKNOWN, LaneFrom.UNKNOWN, LaneHolds.UNKNOWN, Priority.UNKNOWN, WaitReason.UNKNOWN)
"""What a job has that is not cancelled, does not wait, or comes from a server that does not tell."""


def _field(name: str, value: Any) -> Any:
    if any(value is each for each in _NONE):
        return None
    return str(value) if isinstance(value, int) and name in int64_fields() else plain(value)


def stored(counts: Mapping[State, int]) -> dict[str, str]:
    """The number of stored jobs in every state."""
    known = {state.value: "0" for state in State if state is not State.UNKNOWN}
    return known | {state.value: str(number) for state, number in counts.items()}


def waiting(counts: Mapping[WaitReason, int]) -> dict[str, str]:
    """The number of stored jobs by what they wait for."""
    known = {reason.value: "0" for reason in WaitReason if reason is not WaitReason.UNKNOWN}
    return known | {reason.value: str(number) for reason, number in counts.items()}


def line(document: Any) -> str:
    """The document on one line."""
    return json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f")
