"""The due timer begins anew where a failure has cut its course, and rings no more often than it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.durations import SECOND
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.due_timer import UNANSWERED_TURNS_MAX, DueTimer


class Notification:
    """A committer that counts how often it is rung, and answers when a test says so."""

    def __init__(self) -> None:
        self.rings = 0
        self.silence = 0
        self.on_due: Callable[[int | None, int | None], None] = lambda next_due, served: None

    def ring_due(self) -> None:
        self.rings += 1


@pytest.fixture
def committer() -> Notification:
    return Notification()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timer(committer: Notification, clock: ManualClock) -> DueTimer:
    timer = DueTimer(cast("Committer", committer), clock)
    timer.start()
    return timer


def test_an_answer_that_never_came_is_asked_for_again(timer: DueTimer, committer: Notification) -> None:
    for _ in range(UNANSWERED_TURNS_MAX):
        timer.turn()
    assert committer.rings == 1

    timer.turn()

    assert committer.rings == 2


def test_a_store_that_answers_slowly_is_waited_for(
    timer: DueTimer, committer: Notification, clock: ManualClock
) -> None:
    """Whenever the watchdog looks, a request is under way or a timer is late, but each is another one."""
    for _ in range(100):
        timer.turn()
        committer.on_due(clock.now() + SECOND, 0)
        clock.advance(SECOND)

    assert committer.rings == 101


def test_a_store_that_does_not_answer_is_waited_for(timer: DueTimer, committer: Notification) -> None:
    for silence in range(100):
        committer.silence = silence + 1
        timer.turn()

    assert committer.rings == 1


def test_a_timer_that_was_lost_on_its_way_is_set_again(
    timer: DueTimer, committer: Notification, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer.on_due(clock.now() + 2 * SECOND, 0)
    with monkeypatch.context() as patched:
        patched.setattr(timer, "_wait_until", lambda _due: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clock.advance(SECOND)
    clock.advance(SECOND)
    for _ in range(UNANSWERED_TURNS_MAX):
        timer.turn()
    assert committer.rings == 1

    timer.turn()

    assert committer.rings == 2


def test_one_that_waits_or_is_stopped_is_left_alone(
    timer: DueTimer, committer: Notification, clock: ManualClock
) -> None:
    committer.on_due(clock.now() + 60 * SECOND, 0)
    for _ in range(20):
        timer.turn()
    timer.stop()
    for _ in range(20):
        timer.turn()

    assert committer.rings == 1
