"""Settings: a TOML file, ``JOBSTATE_*`` in the environment, flags of the command line, in rising order.

Read once, at start. A value that cannot work refuses to start, with a sentence that says what to change.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from apscheduler.triggers.cron import CronTrigger
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from jobstate_server.domain.clock import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from jobstate_server.domain.job_types import DEFAULT_JOB_TYPE, SHIPPED_JOB_TYPES, JobType, JobTypes

ENV_PREFIX = "JOBSTATE_"

CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
"""Names the settings file when no flag does."""

CLIENT_VARIABLE = ENV_PREFIX + "SERVER"
"""Names the server for the command line ``jobstate``, which may share our environment."""

_UNITS = {"ms": MILLISECOND, "s": SECOND, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY}
_SPAN = re.compile(r"(-?\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)")
_JOB_TYPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


class BadSettings(Exception):
    """The settings cannot work. The message tells an operator what to change."""


def _span(value: object) -> int:
    """Microseconds of a span such as "90s", "7.5min", "30d"; a bare number is seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError('must be a span such as "30s", "5min", "24h" or "7d"')
    if isinstance(value, str):
        match = _SPAN.fullmatch(value.strip())
        if match is None:
            raise ValueError(f'{value!r} is not a span; write one such as "30s", "5min", "24h" or "7d"')
        span = float(match[1]) * _UNITS[match[2]]
    else:
        span = value * SECOND
    if span < 0:
        raise ValueError("must not be negative")
    return round(span)


def _crontab(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a crontab expression such as '*/5 * * * *'")
    try:
        CronTrigger.from_crontab(value, timezone="UTC")
    except ValueError as error:
        raise ValueError(f"{value!r} is not a crontab expression: {error}") from error
    return value


Span = Annotated[int, BeforeValidator(_span)]
Crontab = Annotated[str, BeforeValidator(_crontab)]


class JobTypeSettings(BaseModel):
    """What a ``[job_types.NAME]`` table may set. Unset takes the shipped type's value, or else the default's."""

    model_config = ConfigDict(extra="forbid")

    max_retries: int | None = None
    timeout: Span | Literal["none"] | None = None
    base_delay: Span | None = None
    max_delay: Span | None = None
    stale_threshold: Span | None = None
    jitter: float | None = None
    auto_retry: bool | None = None

    def applied_to(self, policy: JobType) -> JobType:
        """The policy with these settings. Raises ValueError when they cannot work."""
        changes = {key: value for key, value in self.model_dump().items() if value is not None}
        if changes.get("timeout") == "none":
            changes["timeout"] = None
        return replace(policy, **changes)


class Schedules(BaseModel):
    """When the periodic duties run, as crontab expressions in UTC."""

    model_config = ConfigDict(extra="forbid")

    check_stale: Crontab = "*/5 * * * *"
    retry_failed: Crontab = "*/10 * * * *"
    evict_inactive: Crontab = "0 * * * *"
    cleanup: Crontab = "0 2 * * *"
    check_health: Crontab = "*/2 * * * *"


class Settings(BaseSettings):
    """Every setting of the server, with its default. docs/operations.md lists them."""

    # Defaults are not validated: spans among them are microseconds already, not seconds to be converted.
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=False
    )

    listen: str = "127.0.0.1:50051"
    """Where to serve, HOST:PORT. Port 0 picks a free one. An address beyond loopback needs ``insecure``."""
    insecure: bool = False
    """Serve beyond loopback without TLS: anybody who reaches the port may do anything."""
    channelz: bool | None = None
    """Offer channelz, gRPC's own insight. Unset: only on loopback."""
    store: str = "sqlite:///jobs.db"
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    shutdown_grace: Span = 10 * SECOND
    """How long a stopping server lets calls end by themselves."""
    restart_grace: Span = 30 * SECOND
    """How long after a start no attempt is failed: workers must be able to come back."""
    job_retention: Span = 30 * DAY
    event_retention: Span = 7 * DAY
    event_retention_bytes: int = Field(default=2 * 1024**3, ge=1024**2)
    strict_job_types: bool = False
    max_job_types: int = Field(default=1_000, ge=0, le=100_000)
    """How many job types without a policy of their own may come to be."""
    schedules: Schedules = Schedules()
    job_types: dict[str, JobTypeSettings] = {}

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        host, _ = self.address()
        if not self.insecure and not is_loopback(host):
            raise ValueError(
                f"listen: {self.listen} can be reached from other machines; pass --insecure to serve there without TLS"
            )
        self._check_store()
        if self.job_retention < HOUR:
            raise ValueError("job_retention: must be 1h or more, so that whoever waits for a job can see that it ended")
        if self.event_retention < MINUTE:
            raise ValueError("event_retention: must be 1min or more, so that a watcher can reconnect")
        self.policies()
        return self

    def address(self) -> tuple[str, int]:
        """Host and port of ``listen``."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"listen: {self.listen!r} is not HOST:PORT")
        return host.strip("[]"), int(port)

    def _check_store(self) -> None:
        is_file = self.store.startswith("sqlite:///") and self.store != "sqlite:///"
        if not is_file and not self.store.startswith(("postgresql://", "postgres://")):
            raise ValueError(
                f"store: {self.store!r} is no store; use sqlite:///jobs.db (beside the working directory),"
                " sqlite:////var/lib/jobstate/jobs.db (absolute) or postgresql://USER@HOST/DATABASE"
            )

    def policies(self) -> JobTypes:
        """The job types in force."""
        shipped = {policy.name: policy for policy in SHIPPED_JOB_TYPES}
        default = self._policy(DEFAULT_JOB_TYPE, shipped[DEFAULT_JOB_TYPE])
        names = sorted({*shipped, *self.job_types} - {DEFAULT_JOB_TYPE})
        others = [self._policy(name, shipped.get(name) or replace(default, name=name)) for name in names]
        return JobTypes([default, *others], strict=self.strict_job_types)

    def _policy(self, name: str, base: JobType) -> JobType:
        if _JOB_TYPE_NAME.fullmatch(name) is None:
            raise ValueError(f"job_types: {name!r} is not a name for a job type (1 to 64 letters, digits or . _ : -)")
        settings = self.job_types.get(name)
        return base if settings is None else settings.applied_to(base)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(file: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings in force.

    Args:
        file: the settings file; None takes the one the environment names, if it names one.
        flags: what the command line set, by the names of settings.

    Raises:
        BadSettings: a file that cannot be read, an unknown name, or a value that cannot work.
    """
    _refuse_unknown_variables()
    if file is None and os.environ.get(CONFIG_VARIABLE):
        file = Path(os.environ[CONFIG_VARIABLE])
    content = {} if file is None else _read(file)

    class Loaded(Settings):
        """Flags, then the environment, then the file."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            return init_settings, env_settings, InitSettingsSource(settings_cls, content)

    try:
        # Validated already; where the values came from is nobody's business any more.
        return Settings.model_construct(**dict(Loaded(**flags)))
    except ValidationError as error:
        problems = "; ".join(_told(problem) for problem in error.errors())
        raise BadSettings(f"{file or 'the settings'}: {problems}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"cannot read {file}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{file} is not TOML: {error}") from error


def _told(problem: Mapping[str, Any]) -> str:
    # pydantic names the alternatives of a union as parts of the place; an operator knows only the setting.
    place = ".".join(str(part) for part in problem["loc"] if not re.search(r"[\[(]", str(part)))
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{place}: there is no such setting"
    return f"{place}: {message}" if place else message


def _refuse_unknown_variables() -> None:
    """A misspelt variable would otherwise be ignored in silence."""
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields} | {CONFIG_VARIABLE, CLIENT_VARIABLE}
    for variable in os.environ:
        if variable.startswith(ENV_PREFIX) and variable.upper().partition("__")[0] not in known:
            raise BadSettings(f"the environment sets {variable}, but there is no such setting")


JOB_TYPE_SETTINGS = tuple(field.name for field in fields(JobType) if field.name != "name")
assert set(JOB_TYPE_SETTINGS) == set(JobTypeSettings.model_fields), "a setting of job types is missing"
