"""A store that cannot be written is tried until it can, also after a failure has lost the timer of the tries."""

from __future__ import annotations

import asyncio

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.engine.alarm import LATE_TURNS_MAX
from jobstate_server.engine.store_state import PROBE_INTERVAL, StoreState


class Probes:
    """What tries the store: answers when a test says so."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[None]] = []
        self.error: Exception | None = None

    def begin(self) -> asyncio.Future[None]:
        if self.error is not None:
            raise self.error
        self.begun.append(asyncio.get_running_loop().create_future())
        return self.begun[-1]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def probes() -> Probes:
    return Probes()


@pytest.fixture
def state(clock: ManualClock, probes: Probes) -> StoreState:
    state = StoreState(clock, probes.begin, pytest.fail)
    state.note("the disk is full")
    return state


async def ended(probe: asyncio.Future[None], error: Exception | None = None) -> None:
    """Answer a try."""
    if error is None:
        probe.set_result(None)
    else:
        probe.set_exception(error)
    await asyncio.sleep(0)


def take_turns(state: StoreState) -> None:
    """Let the watchdog take as many turns as it needs to find an alarm lost."""
    for _ in range(LATE_TURNS_MAX + 1):
        state.turn()


async def test_it_is_tried_until_it_can_be_written_and_then_no_more(
    state: StoreState, clock: ManualClock, probes: Probes
) -> None:
    for tries in (1, 2):
        clock.advance(PROBE_INTERVAL)
        assert len(probes.begun) == tries
        await ended(probes.begun[-1], OSError("no room"))
    clock.advance(PROBE_INTERVAL)
    await ended(probes.begun[-1])
    assert state.is_writable

    clock.advance(2 * PROBE_INTERVAL)
    take_turns(state)
    assert len(probes.begun) == 3


async def test_a_try_that_could_not_begin_is_made_again_and_the_log_says_so(
    state: StoreState, clock: ManualClock, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    probes.error = RuntimeError("a defect")
    with pytest.raises(RuntimeError):
        clock.advance(PROBE_INTERVAL + 1)
    probes.error = None
    clock.advance(1)
    take_turns(state)
    await ended(probes.begun[-1])

    assert state.is_writable
    assert "the tries of the store had stopped; they were restarted" in caplog.text


async def test_a_try_that_the_store_does_not_answer_is_not_taken_for_a_lost_one(
    state: StoreState, clock: ManualClock, probes: Probes
) -> None:
    clock.advance(2 * PROBE_INTERVAL)
    take_turns(state)

    assert len(probes.begun) == 1


async def test_after_a_stop_it_is_not_tried(state: StoreState, clock: ManualClock, probes: Probes) -> None:
    state.stop()
    clock.advance(2 * PROBE_INTERVAL)
    take_turns(state)

    assert not probes.begun
