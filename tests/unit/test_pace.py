"""The pace of work in bulk: its share while others wait, and the size of its slices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.durations import MILLISECOND, SECOND
from jobstate_server.engine.pace import (
    PAUSE_MAX,
    SLICE_ROWS_FIRST,
    SLICE_ROWS_MIN,
    SLICE_TIME_ALONE,
    Pace,
    SliceSize,
)

ROWS_MAX = 512
SLICE_TIME = 5 * MILLISECOND


@given(st.sampled_from([0.1, 0.2, 0.5, 1.0]), st.lists(st.integers(0, 90 * MILLISECOND), min_size=1))
def test_while_others_wait_the_work_takes_its_share_of_the_time_and_no_more(share: float, spans: list[int]) -> None:
    pace = Pace(share, SLICE_TIME, ROWS_MAX)

    pauses = sum(pace.after(pace.rows, spent, others=1) for spent in spans)

    assert sum(spans) == pytest.approx(share * (sum(spans) + pauses), abs=len(spans))


@given(st.lists(st.integers(0, 10 * SECOND)))
def test_when_nobody_waits_the_next_slice_follows_at_once(spans: list[int]) -> None:
    pace = Pace(0.2, SLICE_TIME, ROWS_MAX)

    assert not any(pace.after(pace.rows, spent, others=0) for spent in spans)


def test_a_slice_that_the_disk_held_up_does_not_stop_the_work_for_long() -> None:
    assert Pace(0.2, SLICE_TIME, ROWS_MAX).after(64, 60 * SECOND, others=1) == PAUSE_MAX


def test_a_pace_has_slices_of_the_size_that_their_time_allows() -> None:
    pace, size = Pace(0.2, SLICE_TIME, ROWS_MAX), SliceSize(SLICE_TIME, ROWS_MAX)

    for spent in (1, 300, 70_000, 5_000):
        pace.after(64, spent, others=1)
        size.note(64, spent, others=1)
        assert pace.rows == size.rows


@pytest.mark.parametrize(("others", "slice_time"), [(1, SLICE_TIME), (0, SLICE_TIME_ALONE)])
@pytest.mark.parametrize("row_time", [13, 170, 291])
def test_slices_become_as_large_as_their_time_allows(others: int, slice_time: int, row_time: int) -> None:
    size = SliceSize(SLICE_TIME, 10_000)

    for _ in range(40):
        size.note(size.rows, size.rows * row_time, others)

    assert size.rows == pytest.approx(slice_time / row_time, abs=1)


def test_slices_stay_short_between_callers_who_come_one_after_another() -> None:
    size, longest = SliceSize(SLICE_TIME, 10_000), 0

    for number in range(200):
        spent = size.rows * 100
        longest = max(longest, spent if number > 5 else 0)
        size.note(size.rows, spent, others=int(number % 10 == 0))

    assert longest <= SLICE_TIME


@given(st.lists(st.tuples(st.integers(0, 10 * SECOND), st.booleans())))
def test_a_slice_has_half_to_twice_the_rows_of_the_one_before_and_stays_within_its_bounds(
    slices: list[tuple[int, bool]],
) -> None:
    size = SliceSize(SLICE_TIME, ROWS_MAX)
    assert size.rows == SLICE_ROWS_FIRST

    for spent, has_others in slices:
        before = size.rows
        size.note(before, spent, others=int(has_others))
        assert max(SLICE_ROWS_MIN, before // 2) <= size.rows <= min(2 * before, ROWS_MAX)


def test_the_first_slice_is_no_larger_than_any_other() -> None:
    assert SliceSize(SLICE_TIME, 10).rows == 10
