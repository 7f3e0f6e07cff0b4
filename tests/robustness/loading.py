"""Reads histories that were written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .history import (
    Acquiring,
    Answer,
    Bulk,
    BulkAnswer,
    Call,
    Configured,
    Erasing,
    EventRecord,
    History,
    JobRecord,
    Listing,
    LogEntry,
    MemorySample,
    Pausing,
    Policies,
    Policy,
    Rate,
    Response,
    Stream,
    Watcher,
)


def load(path: Path) -> History:
    """A history that was written down."""
    data = json.loads(path.read_text("utf-8"))
    data["calls"] = [_made(Call, call) for call in data["calls"]]
    data["acquires"] = [_acquiring(acquiring) for acquiring in data.get("acquires", ())]
    data["policies"] = _policies(data.get("policies", {}))
    data["configured"] = [
        Configured(each["after"], [_policies(some) for some in each["policies"]]) for each in data.get("configured", ())
    ]
    data["pauses"] = [Pausing(**pausing) for pausing in data.get("pauses", ())]
    data["bulks"] = [
        _made(Bulk, {**bulk, "answers": [BulkAnswer(**answer) for answer in bulk["answers"]]})
        for bulk in data.get("bulks", ())
    ]
    data["erasings"] = [Erasing(**erasing) for erasing in data.get("erasings", ())]
    data["listings"] = [Listing(**listing) for listing in data.get("listings", ())]
    data["calm"] = tuple(data["calm"]) if data.get("calm") else None
    data["watchers"] = [_watcher(watcher) for watcher in data["watchers"]]
    data["log"] = [_entry(entry) for entry in data["log"]]
    data["memory"] = [MemorySample(**sample) for sample in data["memory"]]
    return History(**data)


def _policies(data: Mapping[str, Any]) -> Policies:
    def policy(of_type: Mapping[str, Any]) -> Policy:
        rates = {name: Rate(**of_type[name]) for name in ("rate", "lane_rate") if of_type.get(name)}
        return Policy(**{**of_type, **rates})

    return {name: policy(of_type) for name, of_type in data.items()}


def _acquiring(data: Mapping[str, Any]) -> Acquiring:
    answers = [
        Answer(answer["invoked"], answer["returned"], [(job_id, attempt) for job_id, attempt in answer["jobs"]])
        for answer in data["answers"]
    ]
    acquiring: Acquiring = _made(Acquiring, {**data, "answers": answers})
    return acquiring


def _event(data: Mapping[str, Any]) -> EventRecord:
    event: EventRecord = _made(EventRecord, data)
    return event


def _entry(data: Mapping[str, Any]) -> LogEntry:
    left = data.get("left")
    return LogEntry(**{**data, "event": _event(data["event"]), "left": None if left is None else _event(left)})


def _watcher(data: Mapping[str, Any]) -> Watcher:
    watcher: Watcher = _made(Watcher, {**data, "streams": [_stream(stream) for stream in data["streams"]]})
    return watcher


def _stream(data: Mapping[str, Any]) -> Stream:
    responses = [
        Response(
            **{
                **response,
                "events": [_event(event) for event in response["events"]],
                "jobs": [JobRecord(**job) for job in response["jobs"]],
            }
        )
        for response in data["responses"]
    ]
    stream: Stream = _made(Stream, {**data, "responses": responses})
    return stream


def _made(kind: type[Any], data: Mapping[str, Any]) -> Any:
    """A dataclass from JSON, which knows no tuples."""
    tuples = {item.name for item in fields(kind) if "tuple" in str(item.type)}
    return kind(**{key: tuple(value) if key in tuples and value is not None else value for key, value in data.items()})
