"""What a table ``[[recurring]]`` of the settings may have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from jobstate_server.config.values import is_name, name_of
from jobstate_server.domain import limits
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.labels import is_key, to_text
from jobstate_server.domain.texts import quoted
from jobstate_server.domain.waiting import Priority
from jobstate_server.maintenance.crontab import Crontab
from jobstate_server.maintenance.recurring_entry import Missed, RecurringEntry
from jobstate_server.wire.documents import document_from

RECURRING_MAX = 1_000
"""Recurring entries. Many are due at the same moment, and one transaction takes the jobs of all."""

SCHEDULE_BYTES_MAX = 512
"""Bytes of a schedule: room for every minute, hour, day and month by its number. ListTasks returns all at once."""


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError(f"{quoted(value)} is not a name (1 to 64 letters, digits or . _ : -)")
    return value


_time_zones = cache(available_timezones)
"""The names of time zones, which are read from hundreds of files."""


def _time_zone(value: str) -> str:
    # Not by trying to load it: some systems would also find "europe/berlin", or a file of another kind.
    if value != "UTC" and value not in _time_zones():
        raise ValueError(
            f"{quoted(value)} is not a time zone that this machine knows; write an IANA name such as Europe/Berlin"
            " (where none is known, install the package tzdata)"
        )
    return value


def _metadata(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError('must be a table such as {bucket = "nightly"}')
    try:
        document_from(value, "metadata", limits.METADATA_BYTES_MAX)
    except InvalidField as refusal:
        first = refusal.violations[0]
        inner = first[0].removeprefix("metadata").removeprefix(".")
        raise ValueError(f"{quoted(inner)} {first[1]}" if inner else first[1]) from refusal
    return value


def _text(bytes_max: int) -> AfterValidator:
    def check(value: str) -> str:
        size = len(value.encode())
        if size > bytes_max:
            raise ValueError(f"has {size} bytes, at most {bytes_max} are allowed")
        if "\0" in value:
            raise ValueError("must not contain NUL")
        return value

    return AfterValidator(check)


def _labels(value: Mapping[str, str]) -> Mapping[str, str]:
    if len(value) > limits.LABELS_MAX:
        raise ValueError(f"has {len(value)} labels, at most {limits.LABELS_MAX} are allowed")
    for key, text in value.items():
        if not is_key(key):
            raise ValueError(f"the key {quoted(key)} is not 1 to 64 letters, digits or . _ : / -")
        if len(text.encode()) > limits.LABEL_BYTES_MAX or "\0" in text:
            raise ValueError(f"{quoted(key)} must have at most {limits.LABEL_BYTES_MAX} bytes and no NUL")
    return value


class RecurringSettings(BaseModel):
    """A job that is created again and again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_name)]
    """Names the entry, and begins the ids of its jobs."""
    schedule: Annotated[Crontab, _text(SCHEDULE_BYTES_MAX)]
    """When its jobs are created, in the time zone."""
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    """An IANA name."""
    missed: Annotated[Missed, BeforeValidator(name_of(Missed))] = Missed.ONE
    """Whether the latest instant that came while no server ran has a job at the next start."""
    job_type: Annotated[str, AfterValidator(_name)]
    source_id: Annotated[str, _text(limits.SOURCE_ID_BYTES_MAX)] = ""
    priority: Annotated[Priority, BeforeValidator(name_of(Priority))] = Priority.NORMAL
    lane: Annotated[str, _text(limits.LANE_BYTES_MAX)] | None = None
    """Unset: as the job type's lane_from says."""
    labels: Annotated[Mapping[str, str], AfterValidator(_labels)] = {}
    metadata: Annotated[Mapping[str, Any], BeforeValidator(_metadata)] = {}

    def entry(self) -> RecurringEntry:
        """The entry as the server runs it."""
        return RecurringEntry(
            name=self.name,
            schedule=self.schedule,
            time_zone=self.time_zone,
            missed=self.missed,
            job_type=self.job_type,
            source_id=self.source_id,
            level=self.priority,
            lane=self.lane,
            labels=to_text(self.labels),
            metadata=document_from(self.metadata, "metadata", limits.METADATA_BYTES_MAX),
        )
