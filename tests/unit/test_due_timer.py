"""The due timer restarts after a failure has ended its chain of timers, and serves no more often than needed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.commands import ServeDue
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import StoreUnavailable
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.due_timer import (
    DUE_MAX,
    DUE_SLICE_TIME,
    RETRY_FAILED_DUE_AFTER,
    RETRY_LOCKED_DUE_AFTER,
    UNANSWERED_TURNS_MAX,
    DueTimer,
)
from jobstate_server.engine.outcomes import DueOutcome, Outcome
from jobstate_server.engine.subscribers import Subscribers


class Answering:
    """A committer that keeps what it is asked, and answers when a test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.asked: list[asyncio.Future[Outcome]] = []
        self.silence = 0
        self.backlog = 0
        """Commands of others that wait."""
        self.limit = 0
        """How many jobs were to be served at most, as asked last."""
        self.due_written: Subscribers[[int]] = Subscribers(lambda: None)

    def submit_own(self, command: ServeDue) -> asyncio.Future[Outcome]:
        assert command.limit <= DUE_MAX
        self.limit = command.limit
        self.asked.append(self._loop.create_future())
        return self.asked[-1]

    def answer(self, answer: Outcome | Exception) -> None:
        """Answer what was asked last."""
        if isinstance(answer, Exception):
            self.asked[-1].set_exception(answer)
        else:
            self.asked[-1].set_result(answer)
        self._loop.run_until_complete(asyncio.sleep(0))

    def tell_next_due(self, next_due: int | None, served: int = 0, failed: int = 0) -> None:
        """Answer that so many were served, and when the next falls due."""
        self.answer(DueOutcome((), served=served, failed=failed, next_due=next_due))


@pytest.fixture
def committer() -> Iterator[Answering]:
    loop = asyncio.new_event_loop()
    yield Answering(loop)
    loop.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timer(committer: Answering, clock: ManualClock) -> DueTimer:
    timer = DueTimer(cast("Committer", committer), clock)
    timer.start()
    return timer


def test_an_answer_that_never_came_is_asked_for_again(timer: DueTimer, committer: Answering) -> None:
    for _ in range(UNANSWERED_TURNS_MAX):
        timer.turn()
    assert len(committer.asked) == 1

    timer.turn()

    assert len(committer.asked) == 2


def test_a_store_that_answers_slowly_is_waited_for(timer: DueTimer, committer: Answering, clock: ManualClock) -> None:
    """Whenever the watchdog looks, a request is under way or a timer is late, but each is another one."""
    for _ in range(100):
        timer.turn()
        committer.tell_next_due(clock.now() + SECOND)
        clock.advance(SECOND)

    assert len(committer.asked) == 101


def test_a_store_that_does_not_answer_is_waited_for(timer: DueTimer, committer: Answering) -> None:
    for silence in range(100):
        committer.silence = silence + 1
        timer.turn()

    assert len(committer.asked) == 1


def test_a_timer_that_was_lost_on_its_way_is_set_again(
    timer: DueTimer, committer: Answering, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer.tell_next_due(clock.now() + 2 * SECOND)
    with monkeypatch.context() as patched:
        patched.setattr(timer, "_wait_until", lambda _due: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clock.advance(SECOND)
    clock.advance(SECOND)
    for _ in range(UNANSWERED_TURNS_MAX):
        timer.turn()
    assert len(committer.asked) == 1

    timer.turn()

    assert len(committer.asked) == 2


def test_one_that_waits_or_is_stopped_is_left_alone(timer: DueTimer, committer: Answering, clock: ManualClock) -> None:
    committer.tell_next_due(clock.now() + 60 * SECOND)
    for _ in range(20):
        timer.turn()
    timer.stop()
    for _ in range(20):
        timer.turn()

    assert len(committer.asked) == 1


def test_while_as_many_are_served_as_were_asked_for_the_next_are_served_at_once(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    committer.tell_next_due(clock.now(), served=committer.limit - 1, failed=1)
    clock.advance(0)

    assert len(committer.asked) == 2


def test_however_many_are_due_callers_wait_no_longer_than_a_slice_takes(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    job_time = 100
    for _ in range(20):
        spent = committer.limit * job_time
        committer.answer(DueOutcome((), spent=spent, others=1, served=committer.limit, next_due=clock.now()))

    assert len(committer.asked) == 21
    assert committer.limit * job_time == DUE_SLICE_TIME


def test_where_a_commit_takes_long_due_jobs_may_take_half_as_long(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    job_time, besides = 100, 8 * DUE_SLICE_TIME
    for _ in range(20):
        spent = committer.limit * job_time
        outcome = DueOutcome((), spent=spent, others=1, served=committer.limit, next_due=clock.now(), besides=besides)
        committer.answer(outcome)

    assert committer.limit * job_time == besides // 2


def test_when_no_caller_waits_as_many_are_served_at_once_as_may_be(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    for _ in range(20):
        committer.answer(DueOutcome((), spent=1, served=committer.limit, next_due=clock.now()))

    assert committer.limit == DUE_MAX


@pytest.mark.parametrize("served", [0, 5])
def test_a_job_that_cannot_be_served_is_tried_again_later_and_not_at_once(
    timer: DueTimer, committer: Answering, clock: ManualClock, served: int
) -> None:
    committer.tell_next_due(clock.now(), served=served, failed=committer.limit if not served else 1)

    clock.advance(RETRY_FAILED_DUE_AFTER - 1)
    assert len(committer.asked) == 1
    clock.advance(1)
    assert len(committer.asked) == 2


def test_what_another_replica_has_in_hand_is_looked_for_again_and_not_at_once(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    committer.answer(DueOutcome((), next_due=clock.now() - 1, now=clock.now()))

    clock.advance(RETRY_LOCKED_DUE_AFTER - 1)
    assert len(committer.asked) == 1
    clock.advance(1)
    assert len(committer.asked) == 2


def test_what_fell_due_since_the_answer_was_made_is_served_at_once(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    committer.answer(DueOutcome((), next_due=clock.now(), now=clock.now() - 1))

    clock.advance(0)

    assert len(committer.asked) == 2


def test_a_store_that_cannot_be_written_is_tried_again_later(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    committer.answer(StoreUnavailable("played", 0.5))

    clock.advance(RETRY_FAILED_DUE_AFTER - 1)
    assert len(committer.asked) == 1
    clock.advance(1)
    assert len(committer.asked) == 2


def test_a_due_time_that_was_written_before_the_answer_came_is_not_lost(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    committer.due_written.notify(clock.now() + 2 * SECOND)
    committer.tell_next_due(clock.now() + 60 * SECOND)

    clock.advance(2 * SECOND)

    assert len(committer.asked) == 2


def test_an_earlier_due_time_moves_the_timer_and_a_later_one_does_not(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    committer.tell_next_due(None)
    committer.due_written.notify(clock.now() + 5 * SECOND)
    committer.due_written.notify(clock.now() + 9 * SECOND)
    committer.due_written.notify(clock.now() + 2 * SECOND)

    clock.advance(2 * SECOND - 1)
    assert len(committer.asked) == 1
    clock.advance(1)
    assert len(committer.asked) == 2


def test_work_that_is_left_of_a_due_job_is_done_at_once(
    timer: DueTimer, committer: Answering, clock: ManualClock
) -> None:
    committer.answer(DueOutcome((), served=1, has_more=True, next_due=clock.now()))
    assert len(committer.asked) == 2

    committer.answer(DueOutcome((), served=1, next_due=None))
    assert len(committer.asked) == 2
