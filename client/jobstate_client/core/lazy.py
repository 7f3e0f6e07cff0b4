"""Values that are decoded from a protobuf message field by field, when a field is first read.

A watch may deliver far more than anybody reads. Decoding every field would cost ten times as much as receiving it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

Decoders = Mapping[str, Callable[[Any], Any]]
"""For each field of a value, the function that decodes it from the message."""


class Lazy:
    """The base of a dataclass whose fields may be decoded later. Two threads may read the same field at once."""

    __slots__ = ("_message",)
    decoders: ClassVar[Decoders] = {}
    """Of this kind of value. Set once, by decoding.py."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Decode a field. Python calls this only for an attribute that is not set."""
            try:
                value = self.decoders[name](_message_of(self))
            except (AttributeError, KeyError):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None
            _set(self, name, value)
            return value


V = TypeVar("V", bound=Lazy)

_new = object.__new__
_set = object.__setattr__
_message_of: Callable[[Any], Any] = vars(Lazy)["_message"].__get__
_set_message: Callable[[Any, Any], None] = vars(Lazy)["_message"].__set__


def lazy(kind: type[V], message: object) -> V:
    """A value of this kind whose fields are decoded from the message. The message must not be changed any more."""
    value = _new(kind)
    _set_message(value, message)
    return value


def decode_all(value: Any) -> None:
    """Decode every field of a value at once, which is cheaper if all are read. Other values are left as they are."""
    try:
        message = _message_of(value)
    except (AttributeError, TypeError):
        # It is no lazy value, or was made by its constructor.
        return
    for name, decode in value.decoders.items():
        _set(value, name, decode(message))
