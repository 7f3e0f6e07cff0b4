"""How the commands, the small immutable values and the enums of the domain are declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar, dataclass_transform

C = TypeVar("C")
E = TypeVar("E", bound=Enum)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[C]) -> type[C]:
    """A dataclass that is frozen only for the type checker. Several are made for every call, and a dataclass that is
    frozen at run time takes three times as long to make. Arguments by name take as long again, so the values of every
    call get theirs by position."""
    return dataclass(slots=True)(cls)


def plain_members(enum: type[E]) -> type[E]:
    """Make the members plain attributes of the class, as Python does from 3.12 on. In 3.11 each access to one runs a
    function, which takes six times as long, and deciding on a command makes a dozen of them."""
    for name, member in enum.__members__.items():
        type.__setattr__(enum, name, member)
    return enum
