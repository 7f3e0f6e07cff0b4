"""Every setting of the server, with its default and its bounds. docs/operations.md lists them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from jobstate_server.config.recurring import RECURRING_MAX, RecurringSettings
from jobstate_server.config.values import (
    SPAN_MAX,
    Fraction,
    Span,
    Whole,
    at_least,
    at_most,
    is_name,
    name_of,
    per_time,
    span,
)
from jobstate_server.domain.durations import DAY, HOUR, MINUTE, SECOND
from jobstate_server.domain.job_types import DEFAULT_JOB_TYPE, SHIPPED_JOB_TYPES, JobType, JobTypes
from jobstate_server.domain.lanes import LaneFrom, LaneHolds
from jobstate_server.domain.rates import PerTime
from jobstate_server.domain.texts import quoted
from jobstate_server.maintenance.job_health import HealthLimits
from jobstate_server.maintenance.recurring_entry import RecurringEntry
from jobstate_server.maintenance.registry import MaintenanceLimits, Schedules

_HOST = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")
_PATH_WITHOUT_SECRETS = re.compile(r"(?:[a-z][a-z0-9+]*:/*)?[\w./ -]*")

JOB_TYPES_NAMED_MAX = 10_000
"""Tables of job types in the settings. ListJobTypes answers all of them in one message."""


def _timeout(value: object) -> int | None:
    return None if value == "none" else span(value)


class JobTypeSettings(BaseModel):
    """What a ``[job_types.NAME]`` table may set. What is unset has the shipped type's value, or else the default's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_retries: Whole = 0
    timeout: Annotated[int | None, BeforeValidator(_timeout)] = None
    base_delay: Span = 0
    max_delay: Span = 0
    stale_threshold: Span = 0
    jitter: Fraction = 0.0
    auto_retry: bool = True
    lease: Span = 0
    priority_step: Span = 0
    concurrency: Whole = 0
    rate: Annotated[PerTime | None, BeforeValidator(per_time)] = None
    burst: Whole = 0
    lane_from: Annotated[LaneFrom, BeforeValidator(name_of(LaneFrom))] = LaneFrom.NONE
    lane_concurrency: Whole = 0
    lane_rate: Annotated[PerTime | None, BeforeValidator(per_time)] = None
    lane_burst: Whole = 0
    lane_holds: Annotated[LaneHolds, BeforeValidator(name_of(LaneHolds))] = LaneHolds.ATTEMPT

    def applied_to(self, policy: JobType) -> JobType:
        """The policy with these settings. Raises ValueError when they cannot work."""
        return replace(policy, **{name: getattr(self, name) for name in self.model_fields_set})


class Settings(BaseModel):
    """Every setting of the server, with its default."""

    # Defaults are not validated: spans among them are microseconds already, not seconds to be converted.
    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = "127.0.0.1:50051"
    """Address to serve on, HOST:PORT. Port 0 picks a free one. An address beyond loopback needs ``insecure``."""
    insecure: bool = False
    """Serve beyond loopback without TLS. Everybody who can reach the port may do everything."""
    admin_listen: str | None = None
    """A second address, HOST:PORT, for /livez, /readyz and gRPC health. Unset: none. An address beyond loopback needs
    ``insecure_admin``."""
    insecure_admin: bool = False
    """Serve ``admin_listen`` beyond loopback. Everybody who can reach the port sees the server's health."""
    channelz: bool | None = None
    """Serve channelz, gRPC's own diagnostics. Unset: only on loopback."""
    store: str = "sqlite:///jobs.db"
    store_password_file: Path | None = None
    """A file with the password of a PostgreSQL ``store``, so that it is in no URL, environment or command line."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    shutdown_grace: Annotated[Span, at_most(HOUR, "1h")] = 10 * SECOND
    """How long a stopping server waits for calls to end."""
    restart_grace: Annotated[Span, at_most(DAY, "1d")] = 30 * SECOND
    """How long after a start no attempt is failed, so that workers can reconnect."""
    job_retention: Annotated[Span, at_least(HOUR, "1h or more, so that watchers of a job can see that it ended")] = (
        30 * DAY
    )
    event_retention: Annotated[Span, at_least(MINUTE, "1min or more, so that a watcher can reconnect")] = 7 * DAY
    event_retention_bytes: Annotated[Whole, Field(ge=1024**2, le=2**53)] = 2 * 1024**3
    request_ids_max: Annotated[Whole, Field(ge=1_000, le=1_000_000_000)] = 10_000_000
    """How many request ids are stored. Beyond that the oldest are deleted before their 24 hours are over, but never
    within their first hour. If that leaves no room, calls with a new request id are refused with OVERLOADED."""
    open_streams_max: Annotated[Whole, Field(ge=10, le=100_000)] = 3_000
    """How many watches and StreamUpdates streams may be open at once. Each takes some 30 KiB."""
    requests_bytes_max: Annotated[Whole, Field(ge=16 * 1024**2, le=2**40)] = 64 * 1024**2
    """Bytes of requests that are being received and of BatchCreates. Further requests wait."""
    cache_bytes: Annotated[Whole, Field(ge=16 * 1024**2, le=2**40)] = 176 * 1024**2
    """Bytes of the caches: pages of a SQLite file, jobs, recent events."""
    strict_job_types: bool = False
    max_job_types: Annotated[Whole, Field(ge=0, le=100_000)] = 1_000
    """How many job types without a policy of their own may exist."""
    health_failure_rate_max: Fraction = 0.5
    """Share of a type's jobs that ended within an hour above which permanent failures are a problem."""
    health_failures_judged_min: Annotated[Whole, Field(ge=1, le=10_000)] = 10
    """With fewer ended jobs than this the rate is not checked."""
    health_unworked_max: Span = 15 * MINUTE
    """How long a job may wait while no worker works on jobs of its type."""
    health_overdue_max: Span = 1 * MINUTE
    """How late the server may act on a retry or timeout."""
    health_commit_latency_max: Span = 1 * SECOND
    """The time that at most 1 % of commits may exceed."""
    schedules: Schedules = Schedules()
    """When each maintenance task runs."""
    job_types: Annotated[dict[str, JobTypeSettings], Field(max_length=JOB_TYPES_NAMED_MAX)] = {}
    recurring: Annotated[tuple[RecurringSettings, ...], Field(max_length=RECURRING_MAX)] = ()
    """Jobs that the server creates at their instants."""

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        problems: list[str] = []
        for check in (self._check_listen, self._check_admin_listen, self._check_store):
            try:
                check()
            except ValueError as problem:
                problems.append(str(problem))
        problems += self._policies()[1]
        problems += self._problems_of_recurring()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _check_listen(self) -> None:
        host, _ = self.address()
        if not self.insecure and not is_loopback(host):
            raise ValueError(
                f"listen: {self.listen} can be reached from other machines; pass --insecure, or set"
                " JOBSTATE_INSECURE=true, to serve there without TLS"
            )

    def _check_admin_listen(self) -> None:
        admin = self.admin_address()
        if admin is not None and not self.insecure_admin and not is_loopback(admin[0]):
            raise ValueError(
                f"admin_listen: {self.admin_listen} can be reached from other machines; set insecure_admin = true to"
                " show them the health of this server"
            )

    def address(self) -> tuple[str, int]:
        """Host and port of ``listen``."""
        return _host_and_port("listen", self.listen)

    def admin_address(self) -> tuple[str, int] | None:
        """Host and port of ``admin_listen``, None when it is unset."""
        return None if self.admin_listen is None else _host_and_port("admin_listen", self.admin_listen)

    def _check_store(self) -> None:
        if self.store.startswith(("postgresql://", "postgres://")):
            return
        if self.store_password_file is not None:
            raise ValueError("store_password_file: only a PostgreSQL store has a password")
        path = self.store.removeprefix("sqlite:///")
        if path == self.store or not path:
            raise ValueError(
                f"store: {_without_secrets(self.store)} is not a store; use sqlite:///jobs.db (beside the working"
                " directory), sqlite:////var/lib/jobstate/jobs.db (absolute) or postgresql://USER@HOST/DATABASE"
            )
        if path.startswith((":memory:", "file:")) or "?" in path or "\0" in path:
            raise ValueError(
                f"store: {quoted(path)} is not the path of a file; jobs are stored in an ordinary file, named without"
                " parameters, as in sqlite:////var/lib/jobstate/jobs.db"
            )
        if path.rpartition("/")[2] in {"", ".", ".."}:
            raise ValueError(f"store: {quoted(path)} is a directory; name a file in it, as in sqlite:///jobs.db")

    def maintenance_limits(self) -> MaintenanceLimits:
        """The limits that maintenance tasks follow."""
        return MaintenanceLimits(
            job_retention=self.job_retention,
            event_retention=self.event_retention,
            event_retention_bytes=self.event_retention_bytes,
            health=HealthLimits(
                failure_rate_max=self.health_failure_rate_max,
                failures_judged_min=self.health_failures_judged_min,
                unworked_max=self.health_unworked_max,
                overdue_max=self.health_overdue_max,
                commit_latency_max=self.health_commit_latency_max,
            ),
        )

    def _problems_of_recurring(self) -> list[str]:
        problems: list[str] = []
        places: dict[str, int] = {}
        named = {policy.name for policy in self._policies()[0]}
        for place, entry in enumerate(self.recurring):
            first = places.setdefault(entry.name, place)
            if first != place:
                problems.append(f"recurring[{place}].name: {quoted(entry.name)} is also that of recurring[{first}]")
            if entry.job_type not in named and (self.strict_job_types or not self.max_job_types):
                why = "strict_job_types is on" if self.strict_job_types else "max_job_types is 0"
                problems.append(
                    f"recurring[{place}].job_type: there is no job type {quoted(entry.job_type)}, and {why}"
                )
        return problems

    def recurring_entries(self) -> tuple[RecurringEntry, ...]:
        """The jobs that the server creates at their instants."""
        return tuple(settings.entry() for settings in self.recurring)

    def policies(self) -> JobTypes:
        """The job types in force."""
        return JobTypes(self._policies()[0], strict=self.strict_job_types)

    def _policies(self) -> tuple[list[JobType], list[str]]:
        """The job types in force, and what is wrong with those that cannot work."""
        shipped = {policy.name: policy for policy in SHIPPED_JOB_TYPES}
        default, found, problems = shipped[DEFAULT_JOB_TYPE], [], []
        # The default first: the others begin as it is.
        for name in [DEFAULT_JOB_TYPE, *sorted({*shipped, *self.job_types} - {DEFAULT_JOB_TYPE})]:
            if not is_name(name):
                rule = "is not a name for a job type (1 to 64 letters, digits or . _ : -)"
                problems.append(f"job_types: {quoted(name)} {rule}")
                continue
            policy = shipped.get(name) or replace(default, name=name)
            try:
                policy = self.job_types[name].applied_to(policy) if name in self.job_types else policy
            except ValueError as problem:
                problems.append(str(problem))
            default = policy if name == DEFAULT_JOB_TYPE else default
            found.append(policy)
        return found, problems


def _host_and_port(setting: str, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and int(port) <= 65_535
    if not is_port or _HOST.fullmatch(host) is None:
        hint = "; put an IPv6 address in brackets, as in [::1]:50051" if host.count(":") > 1 else ""
        raise ValueError(f"{setting}: {quoted(value)} is not HOST:PORT{hint}")
    return host.strip("[]"), int(port)


def _without_secrets(store: str) -> str:
    """A value that is not a store, without the parts that may have a password."""
    if _PATH_WITHOUT_SECRETS.fullmatch(store):
        return quoted(store)
    scheme = re.match(r"[a-z][a-z0-9+]*:/*", store)
    return repr(scheme[0] if scheme else "") + "…"


def is_span(field: FieldInfo) -> bool:
    """Whether the values of a setting are spans."""
    return any(getattr(part, "func", None) in {span, _timeout} for part in field.metadata)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


JOB_TYPE_SETTINGS = tuple(field.name for field in fields(JobType) if field.name != "name")
assert set(JOB_TYPE_SETTINGS) == set(JobTypeSettings.model_fields), "a setting of job types is missing"
assert SPAN_MAX < 2**53, "spans are exact as floats"
