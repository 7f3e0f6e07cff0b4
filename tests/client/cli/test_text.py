"""Texts for people: hostile texts made safe, and the format of spans."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from jobstate_client.cli.terminal.layout import Part, fitted
from jobstate_client.views.text import MARKS_MAX, safe, short_span, span


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert safe(text).isprintable()


@given(st.text(alphabet=st.characters(max_codepoint=0x7E, min_codepoint=0x20)))
def test_plain_text_is_left_as_it_is(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x9b0m", r"\x1b[31mred\x9b0m"),
        ("right\u202eleft\u2066", r"right\u202eleft\u2066"),
        ("日本語 größer", "日本語 größer"),
        ("a\u200b\u200db\ufeff\ufe0f", "ab"),
        ("a\u00a0b", "a b"),
        ("e" + "\u0301" * 50, "e" + "\u0301" * MARKS_MAX),
        ("\udc80", r"\udc80"),
    ],
)
def test_what_is_dangerous_is_written_out(text: str, told: str) -> None:
    assert safe(text) == told


@given(st.text(), st.integers(0, 60), st.booleans(), st.booleans())
def test_a_part_takes_exactly_its_columns(text: str, width: int, right: bool, middle: bool) -> None:
    assert cell_len(fitted(Part(safe(text), width, right=right, middle=middle))) == width


def test_an_id_loses_its_middle() -> None:
    assert fitted(Part("01a209c0-ed11-7b28-b6d6-fb9547ec4e00", 13, middle=True)) == "01a209…ec4e00"
    assert fitted(Part("short", 8, middle=True)) == "short   "


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0s"),
        (0.0001, "<1ms"),
        (0.12, "120ms"),
        (4.2, "4.2s"),
        (9.97, "10s"),
        (59.7, "1m"),
        (185, "3m05s"),
        (3_600, "1h"),
        (7_800, "2h10m"),
        (442_800, "5d03h"),
        (-5, "-5s"),
    ],
)
def test_a_span_is_written_in_at_most_two_units(seconds: float, told: str) -> None:
    assert span(timedelta(seconds=seconds)) == told


@given(st.floats(0, 8.0e8))
def test_a_short_span_has_at_most_four_characters(seconds: float) -> None:
    assert len(short_span(seconds)) <= 5
    assert len(short_span(min(seconds, 999 * 86_400))) <= 4
