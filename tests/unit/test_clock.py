"""Clocks: the machine's never goes back, the manual one runs every timer at its own moment."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.clock import HOUR, SECOND, FollowingClock, ManualClock, SystemClock


def test_the_system_clock_tells_microseconds_since_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 5_000_999)
    clock = SystemClock()

    assert clock.now() == 1_700_000_000_123_456
    assert clock.monotonic() == 5_000


def test_the_system_clock_never_goes_back_when_the_wall_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = iter([10_000_000, 20_000_000, 15_000_000, 1_000, 21_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(wall))
    clock = SystemClock()

    assert [clock.now() for _ in range(5)] == [10_000, 20_000, 20_000, 20_000, 21_000]


def test_the_system_clock_calls_back_on_the_running_loop_and_at_once_when_the_delay_is_negative() -> None:
    async def wait_for_call() -> bool:
        called = asyncio.Event()
        SystemClock().call_later(-HOUR, called.set)
        return await asyncio.wait_for(called.wait(), 5)

    assert asyncio.run(wait_for_call())


def test_a_cancelled_timer_of_the_system_clock_does_not_run() -> None:
    async def cancel_and_wait() -> list[str]:
        ran: list[str] = []
        clock = SystemClock()
        later = asyncio.Event()
        clock.call_later(0, lambda: ran.append("cancelled")).cancel()
        clock.call_later(1, later.set)
        await asyncio.wait_for(later.wait(), 5)
        return ran

    assert asyncio.run(cancel_and_wait()) == []


@given(st.lists(st.integers(-10, 100), max_size=20), st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_the_manual_clock_runs_each_timer_at_its_own_moment_in_order(delays: list[int], advances: list[int]) -> None:
    clock = ManualClock(start=1_000)
    ran: list[tuple[int, int, int]] = []
    for number, delay in enumerate(delays):
        clock.call_later(delay, lambda number=number: ran.append((clock.monotonic(), number, clock.now())))  # type: ignore[misc]

    for delta in advances:
        clock.advance(delta)

    passed = sum(advances)
    moments = sorted((max(0, delay), number) for number, delay in enumerate(delays))
    assert ran == [(due, number, 1_000 + due) for due, number in moments if due <= passed]
    assert (clock.now(), clock.monotonic()) == (1_000 + passed, passed)


def test_a_timer_of_the_manual_clock_set_by_a_timer_runs_within_the_same_advance() -> None:
    clock = ManualClock(start=0)
    ran: list[int] = []

    def again() -> None:
        ran.append(clock.now())
        clock.call_later(10, again)

    clock.call_later(10, again)
    clock.advance(35)

    assert ran == [10, 20, 30]


def test_a_cancelled_timer_of_the_manual_clock_does_not_run_and_may_be_cancelled_twice() -> None:
    clock = ManualClock()
    ran: list[str] = []
    timer = clock.call_later(1, lambda: ran.append("cancelled"))

    timer.cancel()
    timer.cancel()
    clock.advance(SECOND)

    assert ran == []


def test_a_step_of_the_manual_clock_moves_the_wall_clock_and_no_timer() -> None:
    clock = ManualClock(start=0)
    ran: list[int] = []
    clock.call_later(SECOND, lambda: ran.append(clock.now()))

    clock.step(HOUR)
    assert (clock.now(), clock.monotonic(), ran) == (HOUR, 0, [])

    clock.advance(SECOND)
    assert (clock.now(), clock.monotonic(), ran) == (HOUR + SECOND, SECOND, [HOUR + SECOND])


def test_a_following_clock_goes_by_its_own_until_it_is_told_another() -> None:
    own = ManualClock(start=5 * HOUR)
    clock = FollowingClock(own)

    own.advance(SECOND)

    assert (clock.now(), clock.monotonic()) == (5 * HOUR + SECOND, SECOND)


def test_a_following_clock_goes_on_from_what_it_was_told_by_its_own_monotonic_time() -> None:
    own = ManualClock(start=5 * HOUR)
    clock = FollowingClock(own)

    clock.follow(9 * HOUR)
    assert clock.now() == 9 * HOUR
    own.advance(SECOND)
    # A step of the machine's wall clock is none of the database's.
    own.step(HOUR)

    assert (clock.now(), clock.monotonic()) == (9 * HOUR + SECOND, SECOND)


def test_a_following_clock_that_nobody_has_asked_may_be_told_an_earlier_time() -> None:
    clock = FollowingClock(ManualClock(start=5 * HOUR))

    clock.follow(HOUR)

    assert clock.now() == HOUR


def test_a_following_clock_that_is_told_an_earlier_time_waits_for_it() -> None:
    own = ManualClock(start=0)
    clock = FollowingClock(own)
    clock.follow(10 * SECOND)
    assert clock.now() == 10 * SECOND

    clock.follow(8 * SECOND)
    found = [clock.now()]
    for _ in range(3):
        own.advance(SECOND)
        found.append(clock.now())

    assert found == [10 * SECOND, 10 * SECOND, 10 * SECOND, 11 * SECOND]


@given(st.lists(st.tuples(st.sampled_from(["follow", "advance", "step"]), st.integers(0, 100)), max_size=30))
def test_a_following_clock_never_goes_back(steps: list[tuple[str, int]]) -> None:
    own = ManualClock(start=50)
    clock = FollowingClock(own)
    found = [clock.now()]
    for step, amount in steps:
        getattr(clock if step == "follow" else own, step)(amount)
        found.append(clock.now())

    assert found == sorted(found)


def test_a_timer_of_a_following_clock_is_one_of_its_own_clock() -> None:
    own = ManualClock(start=0)
    clock = FollowingClock(own)
    clock.follow(HOUR)
    ran: list[int] = []
    clock.call_later(SECOND, lambda: ran.append(clock.now()))

    own.advance(SECOND)

    assert ran == [HOUR + SECOND]
