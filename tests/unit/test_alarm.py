"""An alarm knows when it has been lost, and a stop when it has taken too long."""

from __future__ import annotations

import queue

from jobstate_server.clock import ManualClock
from jobstate_server.domain.durations import HOUR, SECOND
from jobstate_server.engine.alarm import LATE_TURNS_MAX, Alarm
from jobstate_server.supervision.stop_deadline import StopDeadline

from ..support.clock import PATIENCE_S


def set_alarm(clock: ManualClock) -> tuple[Alarm, list[str]]:
    """An alarm that goes off in a second, and what it then leaves."""
    alarm, rung = Alarm(clock), list[str]()
    alarm.set(SECOND, lambda: rung.append("called"))
    return alarm, rung


def answers(alarm: Alarm) -> list[bool]:
    """Whether it is lost, asked until it should be known."""
    return [alarm.is_lost() for _ in range(LATE_TURNS_MAX + 1)]


def test_an_alarm_that_went_off_and_was_not_set_again_is_lost_after_some_turns_and_no_sooner() -> None:
    clock = ManualClock()
    alarm, rung = set_alarm(clock)
    assert not any(answers(alarm))
    clock.advance(SECOND + 1)

    assert rung == ["called"]
    assert answers(alarm) == [False] * LATE_TURNS_MAX + [True]


def test_an_alarm_that_is_set_again_in_time_is_not_lost() -> None:
    clock = ManualClock()
    alarm, rung = set_alarm(clock)
    for _ in range(3):
        clock.advance(2 * SECOND)
        assert not any(alarm.is_lost() for _ in range(LATE_TURNS_MAX))
        alarm.set(SECOND, lambda: rung.append("again"))

    assert rung == ["called", "again", "again"]
    assert not any(answers(alarm))


def test_an_alarm_that_is_cancelled_neither_goes_off_nor_is_lost() -> None:
    clock = ManualClock()
    alarm, rung = set_alarm(clock)
    alarm.cancel()
    clock.advance(HOUR)

    assert rung == []
    assert not any(answers(alarm))


def test_after_a_pause_of_the_process_an_alarm_is_given_its_turns() -> None:
    clock = ManualClock()
    alarm, _ = set_alarm(clock)
    clock.pause(HOUR)

    assert answers(alarm) == [False] * LATE_TURNS_MAX + [True]


def test_a_stop_deadline_gives_up_once_however_often_it_begins() -> None:
    reasons: queue.Queue[str] = queue.Queue()
    deadline = StopDeadline(0.01, reasons.put)
    deadline.begin()
    deadline.begin()

    assert reasons.get(timeout=PATIENCE_S) == "the server has not stopped within 0.01 s"
    assert reasons.empty()
