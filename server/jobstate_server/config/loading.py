"""Loads the settings from file, environment and flags, and reports every problem at once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobstate_server.config.environment import CONFIG_VARIABLE, settings_in, variable_of
from jobstate_server.config.settings import Settings
from jobstate_server.domain.job_types import DEFAULT_JOB_TYPE

FILE_BYTES_MAX = 4 * 1024 * 1024
"""Size of a settings file. One with 10,000 job types and every setting has half of that."""

_COMPARED = ({"listen", "insecure"}, {"admin_listen", "insecure_admin"}, {"base_delay", "max_delay"})
"""Settings that are compared with each other. If one of them is not valid, the comparison is skipped."""

_PROBLEMS_MAX = 20
"""Problems that are reported at once: a person does not correct more at a time."""


class BadSettings(Exception):
    """The settings cannot work. The message says what to change."""


def load(file: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings in force.

    Args:
        file: the settings file; None takes the one the environment names, if it names one.
        flags: what the command line set, by the names of settings.

    Raises:
        BadSettings: a file that cannot be read, an unknown name, or a value that cannot work.
    """
    if file is None and os.environ.get(CONFIG_VARIABLE):
        file = Path(os.environ[CONFIG_VARIABLE])
    from_file = {} if file is None else _read(file)
    variables, problems = settings_in(os.environ)
    merged = _merged(_merged(from_file, variables), flags)
    settings, found = _validated(merged)
    if settings is not None and not problems:
        return settings
    problems += [_described(place, problem, variables, flags) for place, problem in found]
    more = f"; and {len(problems) - _PROBLEMS_MAX} more" if len(problems) > _PROBLEMS_MAX else ""
    raise BadSettings(f"{file or 'the settings'}: " + "; ".join(problems[:_PROBLEMS_MAX]) + more)


Place = tuple[str, ...]


def _validated(content: dict[str, Any]) -> tuple[Settings | None, list[tuple[Place, str]]]:
    """The settings if they can work, and each problem with its place.

    Values are compared with each other only once each of them is valid. To report every problem at once, the wrong
    values are left out and the rest is validated again.
    """
    problems: list[tuple[Place, str]] = []
    while True:
        try:
            settings = Settings.model_validate(content)
        except ValidationError as error:
            found = [(_place(problem["loc"]), _message_of(problem)) for problem in error.errors(include_url=False)]
        else:
            return (None if problems else settings), problems
        problems += found
        kept = _without([place for place, _ in found if place], content)
        if kept == content:
            return None, problems
        content = kept


def _place(parts: tuple[int | str, ...]) -> Place:
    # The key of a table that is wrong as a key is marked so by pydantic.
    return tuple(str(part) for part in parts if part != "[key]")


def _message_of(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such setting"
    text = str(problem["msg"]).removeprefix("Value error, ")
    return text.replace("Input should be", "must be").replace("a valid dictionary or instance of", "a table of")


def _without(places: list[Place], content: dict[str, Any]) -> dict[str, Any]:
    """The content without the settings at these places, and without those that they are compared with."""
    for place in places:
        if place[0] == "recurring":
            # The others would have other numbers.
            content = _cut(place[:1], content)
            continue
        names = next((group for group in _COMPARED if place[-1] in group), {place[-1]})
        for path in _places_like(place, content):
            for name in names:
                content = _cut((*path, name), content)
    return content


def _places_like(place: Place, content: dict[str, Any]) -> Iterator[Place]:
    """The tables that a setting applies to: a setting of the default type applies to every type."""
    yield place[:-1]
    if place[:2] == ("job_types", DEFAULT_JOB_TYPE) and isinstance(content.get("job_types"), dict):
        yield from (("job_types", name) for name in content["job_types"])


def _cut(place: Place, content: dict[str, Any]) -> dict[str, Any]:
    first, *rest = place
    if first not in content:
        return content
    if not rest:
        return {key: value for key, value in content.items() if key != first}
    inner = content[first]
    return {**content, first: _cut(tuple(rest), inner)} if isinstance(inner, dict) else content


def _described(place: Place, problem: str, variables: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    if not place:
        return problem
    name = _name(place)
    if place[0] not in flags and _holds(variables, place):
        return f"{variable_of(place)} in the environment: {name}: {problem}"
    return f"{name}: {problem}"


def _name(place: Place) -> str:
    """How a setting is written in messages: the entries of a list by their numbers, as in ``recurring[0].name``."""
    if place[0] == "recurring" and len(place) > 1:
        return ".".join((f"recurring[{place[1]}]", *place[2:]))
    return ".".join(place)


def _holds(content: Mapping[str, Any], place: Place) -> bool:
    inner: Any = content
    for part in place:
        if not isinstance(inner, Mapping) or part not in inner:
            return False
        inner = inner[part]
    return True


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Both, where ``high`` wins and tables are merged. A table never replaces a value, which is then reported."""
    merged = dict(low)
    for name, value in high.items():
        if isinstance(value, Mapping) and name in merged:
            merged[name] = _merged(merged[name], value) if isinstance(merged[name], Mapping) else merged[name]
        else:
            merged[name] = value
    return merged


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as content:
            encoded = content.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise BadSettings(f"cannot read {file}: {error.strerror}") from error
    if len(encoded) > FILE_BYTES_MAX:
        raise BadSettings(f"{file} is not a settings file: it has more than {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(encoded.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadSettings(f"{file} is not TOML: {error}") from error
