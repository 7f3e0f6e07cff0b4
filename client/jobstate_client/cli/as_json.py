"""Values as JSON for programs: every key always there, times as RFC 3339, spans in seconds.

Everything beyond ASCII is escaped, so that a terminal has nothing to obey and no locale can break it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any

from jobstate_client.cli.text import exact
from jobstate_client.core.states import State


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
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


def stored(counts: Mapping[State, int]) -> dict[str, int]:
    """The counts of jobs, of every state."""
    known = {state.value: counts.get(state, 0) for state in State if state is not State.UNKNOWN}
    return known | {state.value: number for state, number in counts.items()}


def line(document: Any) -> str:
    """The document on one line."""
    return json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f")
