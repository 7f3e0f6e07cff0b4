"""The settings in force, in the format of a settings file, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobstate_server.config import JobTypeSettings, Settings, is_span, span_text
from jobstate_server.domain.rates import PerTime
from jobstate_server.store.urls import check_url, redacted, with_password


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
    for name, field in Settings.model_fields.items():
        value = redacted(settings.store) if name == "store" else getattr(settings, name)
        if isinstance(value, BaseModel):
            tables += ["", f"[{name}]", *_of_table(value)]
        elif name != "job_types":
            yield _line(name, value, field)
    yield from tables
    for policy in settings.policies().all():
        key = policy.name if policy.name.replace("_", "").replace("-", "").isalnum() else json.dumps(policy.name)
        yield from ("", f"[job_types.{key}]")
        for name, field in JobTypeSettings.model_fields.items():
            value = getattr(policy, name)
            yield f'{name} = "none"' if value is None else _line(name, value, field)


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
    # Strings, numbers and booleans are the same in JSON and TOML.
    return f"{name} = {json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}"
