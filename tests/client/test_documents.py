"""Dicts, times and spans arrive as they were sent."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_client.core.documents import EXACT_MAX, dict_from, duration, span_from, struct_from, time_from, timestamp

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-EXACT_MAX, EXACT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=5))
def test_a_document_comes_back_as_it_was(document: dict[str, Any]) -> None:
    assert dict_from(struct_from(document, "metadata")) == document


def test_whole_numbers_come_back_as_integers() -> None:
    back = dict_from(struct_from({"page": 3, "share": 0.5, "pair": (1, 2)}, "metadata"))

    assert back == {"page": 3, "share": 0.5, "pair": [1, 2]}
    assert isinstance(back["page"], int)


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), TypeError, "metadata.a.b[1]: a datetime is not JSON"),
        (b"bytes", TypeError, "metadata.a.b[1]: a bytes is not JSON"),
        ({1: "one"}, TypeError, "metadata.a.b[1]: keys must be texts, not int"),
        (math.nan, ValueError, "metadata.a.b[1]: nan cannot be kept exactly"),
        (2**60, ValueError, "metadata.a.b[1]: 1152921504606846976 cannot be kept exactly"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_path(value: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind) as caught:
        struct_from({"a": {"b": [1, value]}}, "metadata")

    assert str(caught.value).startswith(told)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), st.integers(-12, 12))
def test_a_moment_comes_back_in_utc(moment: datetime, hours: int) -> None:
    told = moment.replace(tzinfo=timezone(timedelta(hours=hours)))

    assert time_from(timestamp(told)) == told


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        timestamp(datetime(2026, 1, 1))


@given(st.timedeltas(timedelta(0), timedelta(days=3_650)))
def test_a_span_comes_back(span: timedelta) -> None:
    assert span_from(duration(span)) == span


def test_a_span_may_be_seconds() -> None:
    assert span_from(duration(1.5)) == timedelta(seconds=1.5)
