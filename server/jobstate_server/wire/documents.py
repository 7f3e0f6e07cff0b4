"""Free JSON, stored as an encoded ``google.protobuf.Struct``. It is merged and sent as bytes.

To turn a Struct into a dict and back takes twenty microseconds and has no use: the server does not read documents.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct

from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.job import Document
from jobstate_server.domain.limits import METADATA_BYTES_MAX, NESTING_MAX

# A number_value is tag 0x11 and a little-endian double; NaN and infinities have all exponent bits set. A match may also
# be part of a text, so it only means that the values of the document must be checked.
_MAYBE_NOT_FINITE = re.compile(rb"\x11.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)

# An entry whose value is an empty message: a Value without a kind, which is not even null.
_MAYBE_EMPTY = b"\x12\x00"

# An entry whose value may be null, whatever the number of that null is.
_MAYBE_NULL = re.compile(rb"\x12[\x02-\x0b]\x08")

_PATH_CUT_AT = 200
"""Characters of a path in an error. Keys are the caller's and may be long, and statuses are sent in headers."""

PROBLEMS_MAX = 20
"""Problems reported for one document, or one request: a person does not correct more at a time."""

EMPTY_RESULT = b"\x78\x00"
"""How a result without keys is stored, because empty bytes mean no result. It is a field that Struct does not have."""

_EXACT_MAX = 2**53 - 1
"""Numbers are stored as doubles, as JSON has them."""

_STRUCT_TAG = b"\x2a"
_LIST_TAG = b"\x32"


def encode(document: Struct, field: str, bytes_max: int) -> Document:
    """The document as it is stored.

    Raises:
        InvalidField: it is too large or nested too deeply, or values in it are empty, NaN or infinite. The error names
            each of those.
    """
    encoded = document.SerializeToString(deterministic=True)
    if len(encoded) > bytes_max:
        size = len(encoded)
        raise InvalidField(
            field, f"has {size} bytes encoded, at most {bytes_max} are stored", size=size, size_max=bytes_max
        )
    # Bytes that may begin an object or a list. The document is an object itself, so with fewer it is not too deep.
    openings = encoded.count(_STRUCT_TAG) + encoded.count(_LIST_TAG)
    if openings >= NESTING_MAX or _MAYBE_EMPTY in encoded or _MAYBE_NOT_FINITE.search(encoded):
        _check_values(document, field)
    return encoded


def document_from(values: Mapping[str, Any], field: str, bytes_max: int) -> Document:
    """The document of values as a TOML file has them, as it is stored. Empty without values.

    Raises:
        InvalidField: as ``encode``, or a value is a date, a time, or a whole number that JSON does not hold exactly.
    """
    problems: dict[str, str] = {}
    waiting: list[tuple[str, object, int]] = [(f"{field}.{key}", value, 1) for key, value in values.items()]
    while waiting:
        path, value, depth = waiting.pop()
        path = path[:_PATH_CUT_AT]
        if isinstance(value, dict | list):
            if depth >= NESTING_MAX:
                problems[field] = f"is nested deeper than {NESTING_MAX} levels"
            elif isinstance(value, dict):
                waiting += [(f"{path}.{key}", inner, depth + 1) for key, inner in value.items()]
            else:
                waiting += [(f"{path}[{index}]", inner, depth + 1) for index, inner in enumerate(value)]
        elif not isinstance(value, str | bool | int | float):
            problems[path] = "must be a text, a number, true, false, a list or a table; put dates and times in quotes"
        elif isinstance(value, int) and abs(value) > _EXACT_MAX:
            problems[path] = f"must be a whole number up to {_EXACT_MAX}, or a text"
    if problems:
        first, *others = sorted(problems.items())
        raise InvalidField(*first, others=tuple(others[: PROBLEMS_MAX - 1]))
    if not values:
        return b""
    document = Struct()
    document.update(values)
    return encode(document, field, bytes_max)


def merge_metadata(base: Document, patch: Document) -> Document:
    """``base`` with the top-level keys of ``patch`` in place of its own; null removes a key.

    Both are as ``encode`` returns them.

    Raises:
        InvalidField: the result is too large.
    """
    if not base and len(patch) <= METADATA_BYTES_MAX and not _MAYBE_NULL.search(patch):
        # Nothing is replaced or removed, as for nearly every new job. To find that out by parsing takes much longer.
        return patch
    merged = Struct.FromString(base + patch)
    for key, value in Struct.FromString(patch).fields.items():
        if value.WhichOneof("kind") == "null_value":
            del merged.fields[key]
    encoded = merged.SerializeToString(deterministic=True)
    size = len(encoded)
    if size > METADATA_BYTES_MAX:
        raise InvalidField(
            "metadata",
            f"would have {size} bytes once merged, at most {METADATA_BYTES_MAX} are stored",
            size=size,
            size_max=METADATA_BYTES_MAX,
        )
    return encoded


def _check_values(document: Struct, field: str) -> None:
    """Refuse empty values, numbers that are not finite, and nesting that readers could not parse."""
    problems: dict[str, str] = {}
    waiting = [(f"{field}.{key}", value, 1) for key, value in document.fields.items()]
    while waiting and len(problems) < PROBLEMS_MAX:
        path, value, depth = waiting.pop()
        path = path[:_PATH_CUT_AT]
        kind = value.WhichOneof("kind")
        if kind is None:
            problems[path] = "must have a value, if only null"
        elif kind == "number_value" and not math.isfinite(value.number_value):
            problems[path] = "must be a finite number"
        elif kind in {"struct_value", "list_value"}:
            if depth >= NESTING_MAX:
                problems[field] = f"is nested deeper than {NESTING_MAX} levels"
            elif kind == "struct_value":
                waiting += [(f"{path}.{key}", inner, depth + 1) for key, inner in value.struct_value.fields.items()]
            else:
                inner_values = enumerate(value.list_value.values)
                waiting += [(f"{path}[{index}]", inner, depth + 1) for index, inner in inner_values]
    if problems:
        first, *others = sorted(problems.items())
        raise InvalidField(*first, others=tuple(others))
