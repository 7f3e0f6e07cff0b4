"""Clocks: the machine's never goes back, the manual one runs every timer at its own moment."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.clock import FollowingClock, ManualClock, SystemClock
from jobstate_server.domain.durations import HOUR, SECOND
from jobstate_server.domain.store_time import Pause


class Machine:
    """A machine whose clocks a test sets, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wall: float, passed: float = 0) -> None:
        self.wall = wall
        self.passed = passed
        monkeypatch.setattr(time, "time_ns", lambda: int(self.wall * 1e9))
        monkeypatch.setattr(time, "clock_gettime_ns", lambda _: int(self.passed * 1e9))

    def let_pass(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds


def test_the_system_clock_tells_microseconds_since_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 1_700_000_000.5, 5)
    clock = SystemClock()

    assert (clock.now(), clock.monotonic(), clock.ahead()) == (1_700_000_000_500_000, 5_000_000, 0)


def test_the_system_clock_goes_on_when_the_wall_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 10_000)
    clock = SystemClock()

    machine.wall -= 3_600
    found = [clock.now()]
    for _ in range(3):
        machine.let_pass(100)
        found.append(clock.now())

    assert found == [(10_000 + 99 * number) * SECOND for number in range(4)]
    assert clock.ahead() == 3_597 * SECOND


def test_the_system_clock_goes_on_from_the_newest_time_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 10_000)
    clock = SystemClock()

    clock.begin_at(9_000 * SECOND)
    assert clock.now() == 10_000 * SECOND
    clock.begin_at(12_000 * SECOND)

    assert (clock.now(), clock.ahead()) == (12_000 * SECOND, 2_000 * SECOND)


def test_a_wall_clock_that_was_set_forward_is_taken_and_counts_as_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 10_000)
    clock = SystemClock()

    machine.wall += 3_600

    assert clock.now() == 13_600 * SECOND
    assert clock.take_pause() == Pause(10_000 * SECOND, HOUR)
    assert clock.take_pause() is None


def test_turns_that_are_far_apart_are_a_pause_whoever_looks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 10_000)
    clock = SystemClock()
    turns: list[int] = []

    async def turn_once() -> None:
        turned = asyncio.Event()
        timer = clock.attend(HOUR, turned.set)
        await asyncio.wait_for(turned.wait(), 5)
        turns.append(clock.now())
        machine.let_pass(2)
        assert clock.take_pause() is None
        machine.let_pass(6)
        # Eight seconds after the turn; no turn has come since.
        assert clock.take_pause() == Pause(10_000 * SECOND, 8 * SECOND)
        timer.cancel()
        machine.let_pass(60)
        assert clock.take_pause() is None

    asyncio.run(turn_once())

    assert turns == [10_000 * SECOND]


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


def test_a_following_clock_that_is_told_an_earlier_time_runs_slower_until_they_meet() -> None:
    own = ManualClock(start=0)
    clock = FollowingClock(own)
    clock.follow(10 * SECOND)
    assert clock.now() == 10 * SECOND

    clock.follow(9 * SECOND)
    found = [clock.now()]
    for _ in range(2):
        own.advance(50 * SECOND)
        found.append(clock.now())
    own.advance(SECOND)

    assert found == [10 * SECOND, 59_500_000, 109 * SECOND]
    assert clock.now() == 110 * SECOND


def test_a_following_clock_takes_a_later_time_at_once_and_far_later_ones_for_a_pause() -> None:
    own = ManualClock(start=0)
    clock = FollowingClock(own)
    clock.follow(10 * SECOND)

    clock.follow(11 * SECOND)
    assert (clock.now(), clock.take_pause()) == (11 * SECOND, None)
    clock.follow(HOUR)

    assert (clock.now(), clock.take_pause()) == (HOUR, Pause(11 * SECOND, HOUR - 11 * SECOND))


def test_a_following_clock_counts_as_the_time_that_it_follows_while_that_is_ahead_of_its_wall_clock() -> None:
    own = ManualClock(start=0)
    clock = FollowingClock(own)
    clock.follow(HOUR, ahead=SECOND)

    own.advance(50 * SECOND)
    assert (clock.now(), clock.ahead()) == (HOUR + 49_500_000, SECOND)
    own.advance(150 * SECOND)

    assert clock.now() == HOUR + 199 * SECOND


def test_a_pause_of_the_manual_clock_runs_no_timer_and_is_told() -> None:
    clock = ManualClock(start=0)
    ran: list[int] = []
    clock.call_later(SECOND, lambda: ran.append(clock.now()))

    clock.pause(8 * SECOND)

    assert (clock.now(), ran, clock.take_pause()) == (8 * SECOND, [], Pause(0, 8 * SECOND))
    clock.advance(0)
    assert ran == [8 * SECOND]


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
