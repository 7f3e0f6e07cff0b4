"""The calls of Acquire that wait: who is first, and who decides when a call is withdrawn while a batch has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.commands import Acquire, Request
from jobstate_server.domain.errors import Draining
from jobstate_server.domain.job import Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.dispatcher import Dispatcher, Turn
from jobstate_server.engine.outcomes import Outcome
from jobstate_server.engine.parked_acquires import ParkedAcquires, WaitingAcquire

NOTHING = Outcome(())
TYPES = ("a", "b", "c")
REQUEST = Request("somebody", "id", "Acquire", b"digest")
JOBS = (Job(id="job", job_type="a", create_time=1, update_time=1),)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def a_call(
    loop: asyncio.AbstractEventLoop, *job_types: str, request: Request | None = None, max_jobs: int = 1
) -> WaitingAcquire:
    """A call that waits for jobs of these types."""
    return WaitingAcquire(Acquire(job_types, max_jobs, request=request), loop.create_future())


steps = st.lists(
    st.one_of(
        st.tuples(st.just("park"), st.sets(st.sampled_from(TYPES), min_size=1)),
        st.tuples(st.just("take"), st.sets(st.sampled_from(TYPES)), st.integers(0, 3)),
        st.tuples(st.just("put back"), st.integers(0, 3)),
        st.tuples(st.just("withdraw"), st.integers(0, 20)),
    ),
    max_size=40,
)


@given(steps)
def test_calls_are_taken_in_the_order_of_their_arrival_however_often_they_are_put_back(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """Against a model: a list of the calls that wait, and a list of those that a batch has."""
    loop = asyncio.new_event_loop()
    parked = ParkedAcquires()
    arrived: list[WaitingAcquire] = []
    waiting: list[WaitingAcquire] = []
    in_hand: list[WaitingAcquire] = []
    for what, *values in steps:
        if what == "park":
            call = a_call(loop, *sorted(values[0]))
            assert parked.park(call)
            arrived.append(call)
            waiting.append(call)
        elif what == "take":
            wanted = [call for call in waiting if values[0] & set(call.command.job_types)][: values[1]]
            assert parked.take(values[0], values[1]) == wanted
            in_hand += wanted
            waiting = [call for call in waiting if call not in wanted]
        elif what == "put back":
            back, in_hand = in_hand[: values[0]], in_hand[values[0] :]
            withdrawn = [call for call in back if call.withdrawn is not None]
            assert sorted(parked.put_back(back), key=arrived.index) == sorted(withdrawn, key=arrived.index)
            waiting = sorted([*waiting, *(call for call in back if call not in withdrawn)], key=arrived.index)
        elif arrived:
            call = arrived[values[0] % len(arrived)]
            assert parked.withdraw(call, NOTHING) == (call in waiting)
            waiting = [other for other in waiting if other is not call]
        assert len(parked) == len(waiting)
        for name in TYPES:
            assert parked.waiting(name) == sum(name in call.command.job_types for call in waiting)
            assert (name in parked) == bool(parked.waiting(name))
    assert parked.take(TYPES, 100) == waiting
    assert parked.job_types == []
    loop.close()


def test_a_call_that_was_withdrawn_while_a_batch_had_it_gets_what_the_batch_has_for_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    parked = ParkedAcquires()
    lucky, unlucky = a_call(loop, "a"), a_call(loop, "a")
    for call in (lucky, unlucky):
        parked.park(call)
    taken = parked.take(("a",), 2)
    refusal = Draining(1.0)

    assert [parked.withdraw(call, refusal) for call in taken] == [False, False]
    lucky.finish(Outcome(JOBS))
    assert parked.put_back([unlucky]) == [unlucky]
    unlucky.finish(NOTHING)

    assert lucky.future.result().jobs == JOBS
    assert unlucky.future.exception() is refusal
    assert len(parked) == 0


@pytest.mark.parametrize("request_id", [None, REQUEST])
def test_jobs_for_a_caller_who_has_gone_come_back_unless_the_call_can_be_repeated(
    loop: asyncio.AbstractEventLoop, request_id: Request | None
) -> None:
    call = a_call(loop, "a", request=request_id)
    call.future.cancel()

    assert call.finish(Outcome(JOBS)) == (JOBS if request_id is None else ())
    assert not ParkedAcquires().park(call)


def test_repeats_of_a_call_are_found_by_their_request_id(loop: asyncio.AbstractEventLoop) -> None:
    parked = ParkedAcquires()
    first, repeat, other = a_call(loop, "a", request=REQUEST), a_call(loop, "a", request=REQUEST), a_call(loop, "a")
    for call in (first, repeat, other):
        parked.park(call)
    parked.withdraw(first, NOTHING)

    assert parked.take_repeats(REQUEST.key) == [repeat]
    assert parked.take_repeats(REQUEST.key) == []
    assert parked.take(("a",), 2) == [other]


def test_a_call_whose_batch_was_not_kept_can_be_parked_anew_behind_others(loop: asyncio.AbstractEventLoop) -> None:
    parked = ParkedAcquires()
    undone, other = a_call(loop, "a"), a_call(loop, "a")
    parked.park(undone)
    parked.unpark(undone)
    parked.park(other)
    parked.park(undone)

    assert parked.take(("a",), 2) == [other, undone]


def test_what_calls_want_is_counted_by_their_types_up_to_the_limit(loop: asyncio.AbstractEventLoop) -> None:
    parked = ParkedAcquires()
    for call in (a_call(loop, "a", max_jobs=30), a_call(loop, "a", max_jobs=30), a_call(loop, "a", "b")):
        parked.park(call)

    assert parked.wanted(50) == {("a",): 50, ("a", "b"): 1}
    assert sorted(parked.job_types) == ["a", "b"]
    assert len(parked.withdraw_all(Draining(1.0))) == 3
    assert (len(parked), parked.job_types, parked.wanted(50)) == (0, [], {})


class _Decided:
    """A batch that notes what becomes of its commands."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def decide_one(self, _command: Acquire) -> Outcome:
        self.noted.append("decided")
        return NOTHING

    def pass_over(self) -> None:
        self.noted.append("passed over")


def test_a_call_whose_time_was_up_before_its_transaction_is_repeated_is_handed_nothing(
    loop: asyncio.AbstractEventLoop,
) -> None:
    parked = ParkedAcquires()
    dispatcher = Dispatcher(JobTypes(), parked, is_shared=True)
    call, batch = a_call(loop, "a"), _Decided()
    dispatcher.begin([call])
    turn = Turn()
    dispatcher._decide_acquire(call.command, cast(Batch, batch), turn)
    assert parked.withdraw(call, NOTHING)
    call.finish(NOTHING)
    dispatcher.rolled_back(turn)

    dispatcher._decide_acquire(call.command, cast(Batch, batch), Turn())

    assert batch.noted == ["decided", "passed over"]
