"""How long calls of Acquire wait, and what becomes of jobs for callers who have gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.commands import Acquire, Command, Request, ServeWaiting
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import Draining, Overloaded, StoreUnavailable
from jobstate_server.domain.job import Job
from jobstate_server.engine.acquires import LOOK_INTERVAL, NOTHING, Acquires
from jobstate_server.engine.alarm import LATE_TURNS_MAX
from jobstate_server.engine.committer import WAIT_TURNS_MAX, Committer
from jobstate_server.engine.outcomes import Outcome, Verdict
from jobstate_server.engine.parked_acquires import ParkedAcquires, WaitingAcquire
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.subscribers import Subscribers
from jobstate_server.store.base import Reader
from jobstate_server.store.records import ANY_TYPE

JOBS = (Job(id="job", job_type="a", create_time=1, update_time=1),)
ACQUIRE = Acquire(("a",))


class Parking:
    """A committer that parks calls, or has them in a batch that never ends."""

    def __init__(self) -> None:
        self.parked = ParkedAcquires()
        self.hand_out_unfinished: Subscribers[[]] = Subscribers(pytest.fail)
        self.hand_out_opens: Subscribers[[int]] = Subscribers(lambda: None)
        self.calls: list[WaitingAcquire] = []
        self.own: list[tuple[Command, asyncio.Future[Outcome]]] = []
        self.returned: list[Job] = []
        self.is_stuck = False

    def submit_acquire(self, command: Acquire, size: int, otherwise: Verdict | None, connection: str) -> WaitingAcquire:
        del size, connection
        call = WaitingAcquire(command, asyncio.get_running_loop().create_future(), otherwise)
        self.calls.append(call)
        if not self.is_stuck and not self.parked.park(call):
            call.finish(NOTHING)
        return call

    def submit_own(self, command: Command) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.own.append((command, future))
        return future

    def return_undelivered(self, jobs: tuple[Job, ...]) -> None:
        self.returned += jobs


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000_000_000)


@pytest.fixture
def parking() -> Parking:
    return Parking()


@pytest.fixture
async def acquires(parking: Parking, clock: ManualClock) -> Acquires:
    return Acquires(cast(Committer, parking), clock)


async def waiting(acquires: Acquires, command: Acquire = ACQUIRE, wait: int = 60 * SECOND) -> asyncio.Task[object]:
    """A call that has got as far as it gets by itself."""
    task: asyncio.Task[object] = asyncio.create_task(acquires.acquire(command, 10, wait))
    await asyncio.sleep(0)
    return task


async def test_a_call_waits_as_long_as_it_says_and_gets_nothing(acquires: Acquires, clock: ManualClock) -> None:
    task = await waiting(acquires, wait=2 * SECOND)
    clock.advance(2 * SECOND - 1)
    await asyncio.sleep(0)
    assert (task.done(), acquires.waiting("a"), acquires.count) == (False, 1, 1)

    clock.advance(1)
    assert await task == ()
    assert (acquires.waiting("a"), acquires.count) == (0, 0)


async def test_a_call_whose_batch_does_not_end_is_answered_half_a_minute_after_its_time(
    acquires: Acquires, parking: Parking, clock: ManualClock
) -> None:
    parking.is_stuck = True
    task = await waiting(acquires, wait=SECOND)
    clock.advance(SECOND)
    for _ in range(WAIT_TURNS_MAX):
        acquires.turn()
    await asyncio.sleep(0)
    assert not task.done()

    acquires.turn()

    with pytest.raises(StoreUnavailable, match="the outcome is unknown"):
        await task


@pytest.mark.parametrize("request_id", [None, Request("somebody", "id", "Acquire", b"digest")])
async def test_what_a_caller_who_has_gone_got_is_returned_unless_it_can_be_repeated(
    acquires: Acquires, parking: Parking, request_id: Request | None
) -> None:
    task = await waiting(acquires, Acquire(("a",), request=request_id))
    (call,) = parking.parked.take(("a",), 1)
    call.finish(Outcome(JOBS))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert parking.returned == ([] if request_id else list(JOBS))


async def test_who_stops_waiting_makes_room(acquires: Acquires, parking: Parking) -> None:
    task = await waiting(acquires)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (acquires.count, parking.returned) == (0, [])


async def test_draining_ends_all_waits_and_lets_nobody_wait(acquires: Acquires, parking: Parking) -> None:
    waits = await waiting(acquires)
    in_batch = await waiting(acquires, Acquire(("b",)))
    (call,) = parking.parked.take(("b",), 1)
    acquires.drain()
    call.finish(Outcome(JOBS))
    late = await waiting(acquires)

    with pytest.raises(Draining):
        await waits
    assert await in_batch == JOBS
    assert parking.calls[-1].withdrawn is not None
    late.cancel()


async def test_while_calls_wait_the_store_is_asked_every_second(
    acquires: Acquires, parking: Parking, clock: ManualClock
) -> None:
    task = await waiting(acquires)
    for looks in (1, 2):
        clock.advance(LOOK_INTERVAL)
        assert [type(command) for command, _ in parking.own] == [ServeWaiting] * looks
        parking.own[-1][1].set_result(NOTHING)
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)

    clock.advance(LOOK_INTERVAL)
    clock.advance(LOOK_INTERVAL)
    assert len(parking.own) == 2


async def test_a_look_that_was_lost_on_its_way_is_taken_again_and_the_log_says_so(
    acquires: Acquires,
    parking: Parking,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Acquires, "_alarm_rang", lambda _: None)
    task = await waiting(acquires)
    clock.advance(LOOK_INTERVAL + 1)
    monkeypatch.undo()
    for _ in range(LATE_TURNS_MAX + 1):
        acquires.turn()
    assert [type(command) for command, _ in parking.own] == [ServeWaiting]
    assert "the look for ready jobs had stopped; it was restarted" in caplog.text
    parking.own[-1][1].set_result(NOTHING)
    await asyncio.sleep(0)

    clock.advance(LOOK_INTERVAL)
    assert len(parking.own) == 2
    task.cancel()


class Answering:
    """Readers that tell whether anything is ready when a test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[bool]] = []
        self.error: Exception | None = None

    def run(self, read: Callable[[Reader], bool], *, is_short: bool) -> asyncio.Future[bool]:
        assert is_short
        assert read is not None
        if self.error is not None:
            raise self.error
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]


async def test_where_others_use_the_store_too_one_statement_tells_whether_to_look(
    parking: Parking, clock: ManualClock
) -> None:
    readers = Answering()
    acquires = Acquires(cast(Committer, parking), clock, cast(Readers, readers))
    task = await waiting(acquires)
    for looks, found in enumerate((False, True, False)):
        clock.advance(LOOK_INTERVAL)
        readers.asked[-1].set_result(found)
        await asyncio.sleep(0)
        assert (len(readers.asked), len(parking.own)) == (looks + 1, int(looks > 0))
    task.cancel()
    await asyncio.sleep(0)

    clock.advance(2 * LOOK_INTERVAL)
    assert len(readers.asked) == 3


async def test_when_the_readers_do_not_answer_there_is_a_look_all_the_same(
    parking: Parking, clock: ManualClock
) -> None:
    readers = Answering()
    acquires = Acquires(cast(Committer, parking), clock, cast(Readers, readers))
    task = await waiting(acquires)
    clock.advance(LOOK_INTERVAL)
    clock.advance(LOOK_INTERVAL)
    assert (len(readers.asked), parking.own) == (1, [])
    readers.asked[-1].set_exception(StoreUnavailable("played", 0.5))
    await asyncio.sleep(0)
    assert len(parking.own) == 1
    parking.own[-1][1].set_result(NOTHING)
    await asyncio.sleep(0)

    readers.error = Overloaded("played", 0.5)
    clock.advance(LOOK_INTERVAL)

    assert len(parking.own) == 2
    task.cancel()


async def test_of_what_becomes_ready_during_a_look_another_look_is_taken(acquires: Acquires, parking: Parking) -> None:
    task = await waiting(acquires)
    acquires.jobs_ready(("b",))
    assert parking.own == []
    for _ in range(3):
        acquires.jobs_ready(ANY_TYPE)
    assert len(parking.own) == 1

    parking.own[0][1].set_result(NOTHING)
    await asyncio.sleep(0)
    assert len(parking.own) == 2
    task.cancel()
