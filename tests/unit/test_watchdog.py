"""The watchdog: what it restarts, what it gives up for, and what it leaves alone."""

from __future__ import annotations

import asyncio

import pytest

from jobstate_server.supervision import watchdog
from jobstate_server.supervision.watchdog import LOOP_SILENT_TURNS_MAX, RESTARTS_MAX, RESTARTS_TURNS, Watchdog

from ..support.clock import PATIENCE_S


class Part:
    """A part that dies when it is told to."""

    def __init__(self) -> None:
        self.dead: list[str] = []
        self.restarts = 0
        self.turns = 0
        self.failure: Exception | None = None
        self.third_turn = asyncio.Event()

    def restart(self) -> None:
        self.restarts += 1
        self.dead = []

    def turn(self) -> None:
        self.turns += 1
        if self.turns == 3:
            self.third_turn.set()
        if self.failure is not None:
            raise self.failure


class Scene:
    """A watchdog whose turns a test takes itself."""

    def __init__(self) -> None:
        self.vital, self.restartable, self.ageing = Part(), Part(), Part()
        self.reasons: list[str] = []
        self.dog = Watchdog(
            vital=[self.vital],
            restartable=[self.restartable],
            ageing=[self.ageing],
            give_up=self.reasons.append,
        )
        self.dog._loop = asyncio.get_running_loop()

    async def turns(self, count: int = 1) -> None:
        """Take turns, each of which the loop answers."""
        for _ in range(count):
            self.dog.take_turn()
            await asyncio.sleep(0)


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_the_death_of_a_vital_part_ends_the_process_at_the_next_turn(scene: Scene) -> None:
    await scene.turns(3)
    scene.vital.dead = ["committer"]
    await scene.turns(3)

    assert scene.reasons == ["the thread committer has died"]


async def test_a_part_that_died_is_restarted_and_the_fourth_death_within_a_minute_ends_the_process(
    scene: Scene,
) -> None:
    for _ in range(RESTARTS_MAX + 1):
        scene.restartable.dead = ["reader-0"]
        await scene.turns()

    assert scene.restartable.restarts == RESTARTS_MAX
    assert scene.reasons == ["the thread reader-0 has died, after 3 restarts within 60 s"]


async def test_deaths_that_lie_a_minute_apart_are_mended_for_ever(scene: Scene) -> None:
    for _ in range(3 * RESTARTS_MAX):
        scene.restartable.dead = ["reader-0"]
        await scene.turns(RESTARTS_TURNS // RESTARTS_MAX)

    assert scene.restartable.restarts == 3 * RESTARTS_MAX
    assert scene.reasons == []


async def test_a_loop_that_does_not_turn_for_five_turns_ends_the_process_and_no_sooner(scene: Scene) -> None:
    for _ in range(LOOP_SILENT_TURNS_MAX):
        scene.dog.take_turn()
    assert scene.reasons == []
    assert scene.dog.loop_silence == LOOP_SILENT_TURNS_MAX - 1

    scene.dog.take_turn()

    assert scene.reasons == ["the event loop has not turned for 5 s"]


async def test_a_loop_that_was_slow_is_forgiven_once_it_turns(scene: Scene) -> None:
    for _ in range(3):
        for _ in range(LOOP_SILENT_TURNS_MAX):
            scene.dog.take_turn()
        await asyncio.sleep(0)

    assert scene.reasons == []
    assert scene.dog.loop_silence == 0


async def test_a_part_that_fails_in_its_turn_does_not_keep_others_from_theirs(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.ageing.failure = ValueError("a mistake of ours")
    other = Part()
    scene.dog._ageing = [scene.ageing, other]

    await scene.turns(2)

    assert (scene.ageing.turns, other.turns) == (2, 2)
    assert "a part failed in its turn" in caplog.text
    assert scene.reasons == []


async def test_a_part_that_cannot_be_restarted_does_not_keep_others_from_their_turn(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(scene.restartable, "restart", fail)
    scene.restartable.dead = ["reader-0"]

    await scene.turns(RESTARTS_MAX)
    assert (scene.ageing.turns, scene.reasons) == (RESTARTS_MAX, [])
    await scene.turns()
    assert scene.reasons == ["the thread reader-0 has died, after 3 restarts within 60 s"]


async def test_a_loop_that_was_closed_by_a_failed_start_is_no_loop_that_hangs(scene: Scene) -> None:
    scene.dog._loop = asyncio.new_event_loop()
    scene.dog._loop.close()

    for _ in range(2 * LOOP_SILENT_TURNS_MAX):
        scene.dog.take_turn()

    assert scene.reasons == []


async def test_a_watchdog_whose_own_thread_dies_ends_the_process(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        raise SystemExit("a part dies")

    monkeypatch.setattr(watchdog, "TURN_S", 0.001)
    monkeypatch.setattr(scene.dog, "take_turn", die)
    scene.dog.start()
    await asyncio.to_thread(scene.dog._thread.join, PATIENCE_S)

    assert scene.reasons == ["the thread watchdog has died"]


async def test_its_thread_takes_turns_until_it_is_stopped_and_says_nothing_of_what_ends_afterwards(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not shorter: a loop that a busy machine holds up for five turns would be taken for dead.
    monkeypatch.setattr(watchdog, "TURN_S", 0.2)
    scene.dog.start()
    async with asyncio.timeout(PATIENCE_S):
        await scene.ageing.third_turn.wait()

    scene.dog.stop()
    await asyncio.to_thread(scene.dog._thread.join, PATIENCE_S)
    scene.vital.dead = ["committer"]

    assert not scene.dog._thread.is_alive()
    assert scene.reasons == []
