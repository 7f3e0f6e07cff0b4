"""Validates arguments by the server's rules when they are given, so that what is accepted can be sent.

Each function returns the value as it is sent, and raises a TypeError or ValueError that names the argument.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from jobstate_client.core.documents import invalid
from jobstate_client.core.limits import COST_MAX, RESULT_COUNT_MAX, TEXT_BYTES_MAX, TOKENS_MAX


def tokens(value: Any) -> int:
    """Tokens used by an attempt."""
    return _integer(value, "tokens", TOKENS_MAX)


def result_count(value: Any) -> int:
    """How many results there are."""
    return _integer(value, "result_count", RESULT_COUNT_MAX)


def cost(value: Any) -> float:
    """The cost of an attempt."""
    number = _finite(value, "cost")
    if not 0 <= number <= COST_MAX:
        raise ValueError(f"cost must be a number from 0 to {COST_MAX:.0f}, not {number}")
    return number


def percent(value: Any) -> int:
    """The progress of an attempt, rounded down."""
    if type(value) is int and 0 <= value <= 100:
        return value
    number = _finite(value, "percent")
    if not 0 <= number <= 100:
        raise ValueError(f"percent must be between 0 and 100, not {number:g}")
    return int(number)


def message(value: Any, name: str = "message", bytes_max: int = TEXT_BYTES_MAX) -> str:
    """A text for people. Raises InvalidField when it is too long or contains NUL, as the server would."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, not {_type_name(value)}")
    if len(value) * 4 <= bytes_max and value.isascii() and "\0" not in value:
        return value
    try:
        size = len(str.encode(value, "utf-8"))
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a character ({error.reason}) and cannot be sent") from None
    if size > bytes_max:
        raise invalid(name, f"has {size} bytes, at most {bytes_max} are allowed")
    if "\0" in value:
        raise invalid(name, "must not contain NUL")
    return value


def names(values: Iterable[Any], name: str) -> list[Any]:
    """A list of values. Raises TypeError for a single one: a text would be read as a list of letters."""
    if isinstance(values, str | bytes):
        raise TypeError(f"{name} must be a list, not {_type_name(values)}; write [{values!r}]")
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, not {_type_name(values)}")
    return list(values)


def labels(value: Mapping[str, str] | None) -> dict[str, str]:
    """Labels. Raises TypeError unless they are texts by texts: a number would be found by nothing."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"labels must be a mapping of texts, not {_type_name(value)}")
    for key, text in value.items():
        if not isinstance(key, str):
            raise TypeError(f"labels must have texts as keys, not {_type_name(key)}")
        if not isinstance(text, str):
            raise TypeError(f"labels[{key!r}] must be a text, not {_type_name(text)}")
    return dict(value)


def _integer(value: Any, name: str, high: int) -> int:
    number = integer(value, name)
    if not 0 <= number <= high:
        # The value is left out: Python refuses to print an integer of thousands of digits.
        raise ValueError(f"{name} must be 0 to {high}")
    return number


def integer(value: Any, name: str) -> int:
    """An integer of any size."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {_type_name(value)}") from None


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, not {_type_name(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, not {number}")
    return number


def _type_name(value: object) -> str:
    return type(value).__name__
