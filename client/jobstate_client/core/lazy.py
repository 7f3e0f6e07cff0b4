"""Values that are decoded from a protobuf message field by field, when a field is first read.

A watch may deliver far more than anybody reads. Decoding every field would cost ten times as much as receiving it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

READ_ONE_BY_ONE_MAX = 5
"""Fields decoded one by one. Whoever reads more probably reads them all, and decoding the rest at once costs half."""

Decoders = Mapping[str, Callable[[Any], Any]]
"""For each field of a value, the function that decodes it from the message."""


class Lazy:
    """The base of a dataclass whose fields may be decoded later. Two threads may read the same field at once."""

    __slots__ = ("_source",)
    decoders: ClassVar[Mapping[str, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]]] = {}
    """How each field is decoded, and how it is set. Filled once, by ``decode_lazily``."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Decode a field. Python calls this only for an attribute that is not set."""
            try:
                decode, set_field = self.decoders[name]
                source = _source_of(self)
            except (AttributeError, KeyError):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None
            message = source[0]
            if message is None:
                # Another thread has decoded all fields meanwhile.
                return object.__getattribute__(self, name)
            value = decode(message)
            set_field(self, value)
            source.append(name)
            if len(source) > READ_ONE_BY_ONE_MAX:
                decode_all(self)
            return value


V = TypeVar("V", bound=Lazy)

_new = object.__new__
_source_of: Callable[[Any], list[Any]] = vars(Lazy)["_source"].__get__
"""The message, or None once all fields are decoded; then the names of the fields that were decoded one by one."""
_set_source: Callable[[Any, list[Any]], None] = vars(Lazy)["_source"].__set__


def decode_lazily(kind: type[V], decoders: Decoders) -> None:
    """Decode the fields of this kind with these functions."""
    kind.decoders = {name: (decode, vars(kind)[name].__set__) for name, decode in decoders.items()}


def lazy(kind: type[V], message: object) -> V:
    """A value of this kind whose fields are decoded from the message. The message must not be changed any more."""
    value = _new(kind)
    _set_source(value, [message])
    return value


def decode_all(value: object) -> None:
    """Decode all fields that have not been read yet. A value that is not lazy is left as it is."""
    if not isinstance(value, Lazy):
        return
    try:
        source = _source_of(value)
    except AttributeError:
        # It was made by its constructor.
        return
    message, read = source[0], set(source[1:])
    if message is None:
        return
    for name, (decode, set_field) in value.decoders.items():
        if name not in read:
            set_field(value, decode(message))
    source[0] = None
