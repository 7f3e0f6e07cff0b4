"""Settings in the environment, such as ``JOBSTATE_LISTEN`` and ``JOBSTATE_SCHEDULES__CLEANUP``.

Names are exact. A variable that looks like a setting but is none is refused, because it would be ignored silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jobstate_server.config.settings import JobTypeSettings, Settings
from jobstate_server.maintenance.registry import Schedules

ENV_PREFIX = "JOBSTATE_"

CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
"""The path of the settings file, when no flag gives one."""

CLIENT_VARIABLE = ENV_PREFIX + "SERVER"
"""The server's address for the command line ``jobstate``, which may run in the same environment."""

SCHEDULES, JOB_TYPES = ENV_PREFIX + "SCHEDULES", ENV_PREFIX + "JOB_TYPES"

_OF_SERVICE = re.compile(
    r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR))"
)
_URL_OF_SERVICE = re.compile(r"(?:\w+_)?PORT(?:_[0-9]+_(?:TCP|UDP|SCTP))?=(?:tcp|udp|sctp)://\S+")


class BadVariable(Exception):
    """A variable that is not a setting. The message says why, and what to write instead."""


def settings_in(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The settings in the variables, nested as in a file, and the problems of the others."""
    found: dict[str, Any] = {}
    problems: list[str] = []
    for variable, value in sorted(environment.items()):
        try:
            for path in _paths(variable, value):
                *tables, name = path
                table = found
                for part in tables:
                    table = table.setdefault(part, {})
                table[name] = value
        except BadVariable as problem:
            problems.append(str(problem))
    return found, problems


def variable_of(path: tuple[str, ...]) -> str:
    """The variable that sets a setting."""
    if path[0] == "job_types" and len(path) > 1:
        return "__".join([JOB_TYPES, path[1], *(part.upper() for part in path[2:])])
    return ENV_PREFIX + "__".join(path).upper()


def _paths(variable: str, value: str) -> Iterator[tuple[str, ...]]:
    """The place of the variable's value in the settings; none, when it is not ours."""
    if not variable.upper().startswith(ENV_PREFIX) or variable in {CONFIG_VARIABLE, CLIENT_VARIABLE}:
        return
    name, *parts = variable[len(ENV_PREFIX) :].split("__")
    if not _is_setting(name.upper()):
        if not _is_of_kubernetes(variable, value):
            raise BadVariable(f"the environment sets {variable}, but there is no such setting")
        return
    if name == "JOB_TYPES":
        yield _of_job_type(variable, parts)
        return
    exact = variable_of((name.lower(), *(part.lower() for part in parts)))
    if variable != exact:
        raise BadVariable(f"the environment sets {variable}; write {exact}, as names of variables are case-sensitive")
    if name == "RECURRING":
        raise BadVariable(f"the environment sets {variable}, but recurring jobs can only be set in a file")
    if name == "SCHEDULES":
        yield _of_schedules(variable, parts)
    elif parts:
        raise BadVariable(f"the environment sets {variable}, but {name.lower()} is not a table of settings")
    else:
        yield (name.lower(),)


def _is_setting(name: str) -> bool:
    return name.lower() in Settings.model_fields


def _is_of_kubernetes(variable: str, value: str) -> bool:
    """Whether Kubernetes sets this in every pod of a namespace with a Service whose name begins with "jobstate"."""
    name = variable.removeprefix(ENV_PREFIX)
    return bool(_OF_SERVICE.fullmatch(name) or _URL_OF_SERVICE.fullmatch(f"{name}={value}"))


def _of_schedules(variable: str, parts: list[str]) -> tuple[str, ...]:
    if len(parts) != 1:
        raise BadVariable(f"the environment sets {variable}; set each schedule separately, as {SCHEDULES}__CLEANUP")
    if parts[0].lower() not in Schedules.model_fields:
        raise BadVariable(f"the environment sets {variable}, but there is no such setting")
    return ("schedules", parts[0].lower())


def _of_job_type(variable: str, parts: list[str]) -> tuple[str, ...]:
    if len(parts) != 2 or not parts[0]:
        raise BadVariable(
            f"the environment sets {variable}; write {JOB_TYPES}__name_of_the_type__TIMEOUT, and so for each setting;"
            " a type with two underscores in its name can only be set in a file"
        )
    name, setting = parts[0].lower(), parts[1].lower()
    if setting not in JobTypeSettings.model_fields:
        raise BadVariable(f"the environment sets {variable}, but there is no such setting")
    exact = variable_of(("job_types", name, setting))
    if parts[0] != name:
        raise BadVariable(
            f"the environment sets {variable}, which could mean a job type with capital letters or one without; write"
            f" {exact} for {name!r}, and set types with capital letters in a file"
        )
    if variable != exact:
        raise BadVariable(f"the environment sets {variable}; write {exact}, as names of variables are case-sensitive")
    return ("job_types", name, setting)
