"""The store's time: it never goes back, never stands still, and moves towards the wall clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.durations import DAY, HOUR, MINUTE, SECOND
from jobstate_server.domain.store_time import PAUSE_MIN, Pause, StoreTime

steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 300), st.integers(0, 3 * SECOND), st.integers(0, 2 * HOUR)),
        st.one_of(st.just(0), st.integers(-1_000, 1_000), st.integers(-3 * SECOND, 3 * SECOND), st.integers(-DAY, DAY)),
    ),
    max_size=40,
)
"""What passes, and by how much the wall clock is set besides."""


@given(steps)
def test_time_passes_at_99_to_101_percent_but_where_the_wall_clock_has_gone_ahead(moves: list[tuple[int, int]]) -> None:
    wall = passed = 400 * DAY
    store_time = StoreTime(wall, passed)
    time = store_time.read(wall, passed)
    for delta, step in moves:
        wall, passed = wall + delta + step, passed + delta
        before, time = time, store_time.read(wall, passed)
        if wall > before + delta + PAUSE_MIN:
            assert time == wall
            assert store_time.take_pause() == Pause(before + delta, wall - before - delta)
        else:
            # One microsecond for the rounding.
            assert delta * 0.99 - 1 <= time - before <= delta * 1.01 + 1
            assert store_time.take_pause() is None


@given(st.integers(-HOUR, PAUSE_MIN), st.integers(1, 10_000_000))
def test_time_meets_the_wall_clock_and_stays_with_it(step: int, stride: int) -> None:
    store_time = StoreTime(400 * DAY, 0)
    wall = 400 * DAY + step
    for number in range(1, 10):
        store_time.read(wall + number * stride, number * stride)
    passed = 9 * stride + 101 * abs(step)
    store_time.read(wall + passed, passed)

    assert store_time.read(wall + passed + 7, passed + 7) == wall + passed + 7
    assert store_time.ahead == 0


def test_many_small_steps_add_up_to_the_same_speed_as_one() -> None:
    store_time = StoreTime(400 * DAY, 0)
    found = [store_time.read(399 * DAY + passed, passed) for passed in range(1, 100_001)]

    assert found[-1] == 400 * DAY + 99_000


def test_a_wait_of_a_minute_is_kept_to_within_a_second_however_far_the_wall_clock_was_set_back() -> None:
    for step in (SECOND, HOUR, 60 * DAY):
        store_time = StoreTime(400 * DAY, 0)
        assert 59 * SECOND <= store_time.read(400 * DAY - step + MINUTE, MINUTE) - 400 * DAY <= MINUTE


def test_what_was_read_before_a_process_was_held_up_does_not_move_time_ahead() -> None:
    """The wall clock is read first: it may be old when the time that has passed is read, never the reverse."""
    store_time = StoreTime(400 * DAY, 0)

    store_time.read(400 * DAY, HOUR)
    time = store_time.read(400 * DAY + HOUR, HOUR)

    assert 400 * DAY + HOUR * 0.98 <= time <= 400 * DAY + HOUR
    assert store_time.read(400 * DAY + HOUR + MINUTE, HOUR + MINUTE) <= 400 * DAY + HOUR + MINUTE


def test_pauses_that_nobody_has_asked_for_are_one_from_the_first_to_the_last() -> None:
    assert Pause(10, 5).joined(Pause(30, 10)) == Pause(10, 30)
    assert Pause(30, 10).joined(Pause(10, 5)) == Pause(10, 30)
    assert Pause(10, 30).joined(Pause(20, 5)) == Pause(10, 30)
    assert Pause(10, 5).joined(None) == Pause(10, 5)
