"""The settings in force, in the format of a settings file, without secrets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobstate_server.config import JobTypeSettings, RecurringSettings, Settings, is_span, span_text
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.rates import PerTime
from jobstate_server.maintenance.instants import Instants
from jobstate_server.store.urls import check_url, redacted, with_password

INSTANTS_SHOWN = 3
"""Instants of each recurring entry that are printed."""


def settings_as_toml(settings: Settings) -> str:
    """All settings with their values, including defaults, in TOML.

    The URL of the store is without its password, as in logs. Settings that are unset are comments.

    Raises:
        CannotOpen: the URL of the store is not valid, or its password file cannot be read.
    """
    check_url(with_password(settings.store, settings.store_password_file))
    return "\n".join(_lines(settings)) + "\n"


def _lines(settings: Settings) -> Iterator[str]:
    tables: list[str] = []
    if not settings.recurring:
        yield "# recurring is unset"
    for name, field in Settings.model_fields.items():
        value = redacted(settings.store) if name == "store" else getattr(settings, name)
        if isinstance(value, BaseModel):
            tables += ["", f"[{name}]", *_of_table(value)]
        elif name not in {"job_types", "recurring"}:
            yield _line(name, value, field)
    yield from tables
    for policy in settings.policies().all():
        key = policy.name if policy.name.replace("_", "").replace("-", "").isalnum() else json.dumps(policy.name)
        yield from ("", f"[job_types.{key}]")
        for name, field in JobTypeSettings.model_fields.items():
            value = getattr(policy, name)
            yield f'{name} = "none"' if value is None else _line(name, value, field)
    for entry in settings.recurring:
        yield from ("", "[[recurring]]", *_next_instants(entry), *_of_table(entry))


def _next_instants(entry: RecurringSettings) -> Iterator[str]:
    """Comments that say when the next jobs would be created, in the time zone of the entry and in UTC."""
    instants = Instants(entry.schedule, entry.time_zone)
    zone = ZoneInfo(entry.time_zone)
    instant = time.time_ns() // 1_000
    for _ in range(INSTANTS_SHOWN):
        instant = instants.next_after(instant)
        moment = datetime.fromtimestamp(instant // SECOND, UTC)
        in_utc = "" if entry.time_zone == "UTC" else f" ({moment:%Y-%m-%d %H:%M} UTC)"
        yield f"# next: {moment.astimezone(zone):%a %Y-%m-%d %H:%M %Z}{in_utc}"


def _of_table(table: BaseModel) -> Iterator[str]:
    for name, field in type(table).model_fields.items():
        yield _line(name, getattr(table, name), field)


def _line(name: str, value: Any, field: FieldInfo) -> str:
    if value is None:
        return f"# {name} is unset"
    if isinstance(value, PerTime):
        value = f"{value.count}/{span_text(value.period)}"
    elif isinstance(value, IntEnum):
        value = value.name.lower()
    if isinstance(value, int) and is_span(field):
        return f'{name} = "{span_text(value)}"'
    return f"{name} = {_inline(str(value) if isinstance(value, Path) else value)}"


def _inline(value: Any) -> str:
    """A value in one line. Texts, numbers and booleans are the same in JSON and TOML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    # TOML allows DEL only escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
