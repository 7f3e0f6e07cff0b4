"""Values as JSON for programs: every key always there, times as RFC 3339, spans in seconds, 64-bit numbers as text.

Everything beyond ASCII is escaped, so that a terminal has nothing to obey and no locale can break it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any

from jobstate_client.core.lazy import decode_all
from jobstate_client.core.states import State
from jobstate_client.views.text import exact

INT64 = frozenset(
    {
        "backlog",
        "cancelled",
        "commands",
        "commits",
        "completed",
        "count",
        "estimated_tokens",
        "events",
        "failed",
        "jobs",
        "overdue",
        "permanently_failed",
        "processing",
        "queued",
        "result_count",
        "retries",
        "sequence",
        "tokens",
        "version",
    }
)
"""Fields that are int64 in the contract. They are text, as in the JSON of protobuf: JavaScript, jq and many others have
no whole numbers beyond 2^53, and would round them without a word."""


def plain(value: Any) -> Any:
    """The value in terms of JSON."""
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


def _field(name: str, value: Any) -> Any:
    return str(value) if name in INT64 and isinstance(value, int) else plain(value)


def stored(counts: Mapping[State, int]) -> dict[str, str]:
    """The counts of jobs, of every state."""
    known = {state.value: "0" for state in State if state is not State.UNKNOWN}
    return known | {state.value: str(number) for state, number in counts.items()}


def line(document: Any) -> str:
    """The document on one line."""
    return json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f")
