"""Encodes columns as arrays in PostgreSQL's binary format, so that a batch of any size is one value per column.

psycopg writes arrays element by element through Python objects, which costs several times as much as the statement.
The format is that of ``array_send`` in PostgreSQL's ``src/backend/utils/adt/arrayfuncs.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from struct import Struct
from typing import Any

from peewee import BigIntegerField, BlobField, BooleanField, Field, IntegerField, TextField
from psycopg import Connection
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = Struct("!iiIii")
"""Dimensions, flags, type of the elements, their number, index of the first."""
_LENGTH = Struct("!i")
_NULL = _LENGTH.pack(-1)


class Kind(Enum):
    """Column types: name, oid of the type, oid of its array type (``pg_type.dat``)."""

    INT8 = ("int8", 20, 1016)
    TEXT = ("text", 25, 1009)
    BYTEA = ("bytea", 17, 1001)
    BOOL = ("bool", 16, 1000)
    XID = ("xid", 28, 1011)

    def __init__(self, type_name: str, oid: int, array_oid: int) -> None:
        self.type_name = type_name
        self.oid = oid
        self.array_oid = array_oid


_FIXED: dict[Kind, tuple[int, Callable[[int, Any], bytes]]] = {
    Kind.INT8: (8, Struct("!iq").pack),
    Kind.BOOL: (1, Struct("!i?").pack),
    Kind.XID: (4, Struct("!iI").pack),
}
"""Of the kinds whose values have one size: the size, and what packs it and a value."""

_KINDS: tuple[tuple[type[Field], Kind], ...] = (
    (BooleanField, Kind.BOOL),
    (BlobField, Kind.BYTEA),
    (TextField, Kind.TEXT),
    (BigIntegerField, Kind.INT8),
    # The assignment narrows it, and fails when the value does not fit.
    (IntegerField, Kind.INT8),
)


def kind_of(field: Field) -> Kind:
    """The type that the values of a model's field are sent as."""
    return next(kind for type_, kind in _KINDS if isinstance(field, type_))


class _Array(bytes):
    """An encoded array."""


class _Int8Array(_Array):
    pass


class _TextArray(_Array):
    pass


class _ByteaArray(_Array):
    pass


class _BoolArray(_Array):
    pass


class _XidArray(_Array):
    pass


_ARRAYS: dict[Kind, type[_Array]] = {
    Kind.INT8: _Int8Array,
    Kind.TEXT: _TextArray,
    Kind.BYTEA: _ByteaArray,
    Kind.BOOL: _BoolArray,
    Kind.XID: _XidArray,
}


class _ArrayDumper(Dumper):
    """Sends an encoded array as it is."""

    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


_DUMPERS = {
    array: type(f"{array.__name__}Dumper", (_ArrayDumper,), {"oid": kind.array_oid}) for kind, array in _ARRAYS.items()
}


def register(connection: Connection[Any]) -> None:
    """Let a connection send the arrays that ``array`` makes."""
    for array_type, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(array_type, dumper)


def array(kind: Kind, values: Sequence[Any]) -> bytes:
    """Encode at least one value as an array. Values may be None.

    Raises:
        struct.error: a number is beyond 64 bits.
        UnicodeEncodeError: a text has a lone surrogate.
    """
    count = len(values)
    # Most columns of a batch have the same value in every row, such as the time.
    is_same = values.count(values[0]) == count
    elements = _elements(kind, values[:1]) * count if is_same else _elements(kind, values)
    return _ARRAYS[kind](_HEADER.pack(1, 0, kind.oid, count, 1) + b"".join(elements))


def _elements(kind: Kind, values: Sequence[Any]) -> list[bytes]:
    if kind is Kind.TEXT or kind is Kind.BYTEA:
        if kind is Kind.TEXT:
            values = [None if value is None else value.encode() for value in values]
        length = _LENGTH.pack
        return [_NULL if value is None else length(len(value)) + value for value in values]
    size, pack = _FIXED[kind]
    return [_NULL if value is None else pack(size, value) for value in values]
