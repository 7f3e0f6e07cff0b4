"""How the small immutable values of the domain are declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def value(cls: type[C]) -> type[C]:
    """A dataclass that is frozen only for the type checker. Several are made for every call, and a dataclass that is
    frozen at run time takes three times as long to make."""
    return dataclass(slots=True)(cls)
