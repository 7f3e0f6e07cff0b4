"""Finds all problems of a request, each with its field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from jobstate.v1 import job_pb2
from jobstate_server.domain import limits
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.job import Document
from jobstate_server.domain.labels import is_key
from jobstate_server.wire import documents
from jobstate_server.wire.documents import PROBLEMS_MAX
from jobstate_server.wire.times import nanos_of

_ID = re.compile(limits.ID_PATTERN)
_JOB_TYPES_CACHED = 1_024
"""Names of job types that were checked: there are few."""

_LABEL_KEY_RULE = "must be 1 to 64 letters, digits or . _ : / - and begin with a letter or digit"
_KEY_CUT_AT = 80
"""Characters of a bad key in an error. It may be long, and statuses are sent in headers."""

_ID_RULE = "must be 1 to 128 letters, digits or . _ : - and begin with a letter or digit"
_JOB_TYPE_RULE = "must be 1 to 64 letters, digits or . _ : - and begin with a letter or digit"
_REQUEST_ID = re.compile(rf"[\x21-\x7e]{{{limits.REQUEST_ID_LENGTH_MIN},{limits.REQUEST_ID_LENGTH_MAX}}}")
_REQUEST_ID_RULE = (
    f"must be {limits.REQUEST_ID_LENGTH_MIN} to {limits.REQUEST_ID_LENGTH_MAX} printable ASCII characters without"
    " spaces, best a random UUID"
)


@lru_cache(_JOB_TYPES_CACHED)
def _is_id(value: str) -> bool:
    return _ID.fullmatch(value) is not None


class Problems:
    """The problems of one request.

    Nearly all have none, so this is cheap to make and to ask.
    """

    item = ""
    """The item of a list whose fields are checked. It comes before their names."""
    _found: Sequence[tuple[str, str]] = ()
    _facts: Mapping[str, str] = {}
    """The facts of the first problem."""

    def add(self, field: str, problem: str) -> None:
        """Add a problem."""
        if len(self._found) < PROBLEMS_MAX:
            self._found = (*self._found, (self.item + field, problem))

    @property
    def are_enough(self) -> bool:
        """Whether so many were found that no more are reported."""
        return len(self._found) >= PROBLEMS_MAX

    @property
    def are_any(self) -> bool:
        """Whether any was found."""
        return bool(self._found)

    def refuse(self) -> None:
        """Raise InvalidField if there is any problem."""
        if self._found:
            first, *others = self._found
            raise InvalidField(*first, others=tuple(others), **self._facts)

    def document(self, field: str, document: Struct, bytes_max: int) -> Document:
        """Free JSON. Returns it as it is stored."""
        try:
            return documents.encode(document, field, bytes_max)
        except InvalidField as refusal:
            if not self._found:
                self._facts = {key: value for key, value in refusal.facts.items() if key != "field"}
            for violation in refusal.violations:
                self.add(*violation)
            return b""

    def values(self, field: str, values: Sequence[str], high: int, check: Callable[[str, str], None]) -> None:
        """A list of strings. Each is checked."""
        if self.count(field, len(values), high):
            for index, value in enumerate(values):
                check(f"{field}[{index}]", value)

    def known_values(self, field: str, values: Sequence[int], names: Sequence[int]) -> None:
        """A list of values of an enum."""
        if self.count(field, len(values), limits.FILTER_VALUES_MAX):
            for index, value in enumerate(values):
                self.known(f"{field}[{index}]", value, names)

    def job_id(self, field: str, value: str) -> None:
        """A job's id."""
        if _ID.fullmatch(value) is None:
            self.add(field, _ID_RULE)

    def job_type(self, field: str, value: str) -> None:
        """A job type."""
        if len(value) > limits.JOB_TYPE_LENGTH_MAX or not _is_id(value):
            self.add(field, _JOB_TYPE_RULE)

    def text(self, field: str, value: str, bytes_max: int) -> None:
        """Free text."""
        # A character has at most four bytes, so the size of most texts is known without encoding them.
        if len(value) * 4 > bytes_max and len(value.encode()) > bytes_max:
            self.add(field, f"has {len(value.encode())} bytes, at most {bytes_max} are allowed")
        elif "\0" in value:
            self.add(field, "must not contain NUL")

    def request_id(self, value: str, field: str = "request_id") -> None:
        """An idempotency key, which may be absent."""
        if value and _REQUEST_ID.fullmatch(value) is None:
            self.add(field, _REQUEST_ID_RULE)

    def within(self, field: str, value: int, low: int, high: int) -> None:
        """A number with bounds."""
        if not low <= value <= high:
            self.add(field, f"is {value}, must be {low} to {high}")

    def span(self, field: str, value: Duration, low: int, high: int, rule: str) -> None:
        """A duration within bounds in microseconds, checked without rounding. ``rule``: the bounds in words."""
        is_valid = 0 <= value.nanos <= 999_999_999
        if not is_valid and value.seconds > 0:
            self.add(field, "must be a valid Duration, with nanos from 0 to 999,999,999")
        elif not is_valid or not low * 1_000 <= nanos_of(value) <= high * 1_000:
            self.add(field, f"must be {rule}")

    def time(self, field: str, value: Timestamp) -> None:
        """A time between the years 1 and 9999, as Timestamp is documented."""
        if not 0 <= value.nanos <= 999_999_999 or not -62_135_596_800 <= value.seconds <= 253_402_300_799:
            self.add(field, "must be a valid Timestamp, from year 1 to 9999")

    def known(self, field: str, value: int, names: Sequence[int]) -> None:
        """A number that must be a named value of its enum, and not UNSPECIFIED."""
        if value not in names or value == 0:
            self.add(field, f"{value} is not a valid value of this enum")

    def count(self, field: str, count: int, high: int, low: int = 0) -> bool:
        """The length of a list. Returns whether it is acceptable."""
        if not low <= count <= high:
            self.add(field, f"has {count} values, {low} to {high} are allowed")
        return low <= count <= high

    def source_id(self, field: str, value: str) -> None:
        """The source of a job."""
        self.text(field, value, limits.SOURCE_ID_BYTES_MAX)

    def labels(self, field: str, labels: Mapping[str, str]) -> None:
        """Labels. A value's field is named with its key."""
        if not self.count(field, len(labels), limits.LABELS_MAX):
            return
        for key, value in sorted(labels.items()):
            if not is_key(key):
                self.add(field, f"the key {key[:_KEY_CUT_AT]!r} {_LABEL_KEY_RULE}")
            else:
                self.text(f"{field}[{key}]", value, limits.LABEL_BYTES_MAX)

    def usage(self, usage: job_pb2.Usage) -> bool:
        """Tokens and cost. Returns whether they are acceptable."""
        before = len(self._found)
        if usage.HasField("tokens"):
            self.within("usage.tokens", usage.tokens, 0, limits.TOKENS_MAX)
        if usage.HasField("cost") and not (math.isfinite(usage.cost) and 0 <= usage.cost <= limits.COST_MAX):
            self.add("usage.cost", f"is {usage.cost}, must be a number from 0 to {limits.COST_MAX:.0f}")
        return len(self._found) == before
