"""The schedule rings by the store's time: a task runs at its instants, wherever the clock was set."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cronsim import CronSim

from jobstate_server.domain.durations import DAY, HOUR, MINUTE, SECOND
from jobstate_server.maintenance.task import StillClaimed

from ..support.clock import PATIENCE_S, WatchedClock
from ..support.server import Running, serving


async def run_of(running: Running, name: str) -> asyncio.Event:
    """Set when the task runs next."""
    ran = asyncio.Event()
    (task,) = [task for task in running.server.schedule.tasks if task.name == name]

    async def run_and_tell(still_claimed: StillClaimed) -> str:
        assert await still_claimed()
        ran.set()
        return "rung"

    task.run_scheduled = run_and_tell  # type: ignore[method-assign]
    return ran


EVERY_MINUTE = {"check_health": "* * * * *"}


@pytest.mark.parametrize("step", [0, HOUR, 40 * DAY, -HOUR, -40 * DAY])
async def test_a_task_runs_at_its_next_instant_wherever_the_clock_was_set(
    path: Path, clock: WatchedClock, step: int
) -> None:
    async with serving(path, clock, schedules=EVERY_MINUTE) as running:
        ran = await run_of(running, "check-health")
        clock.step(step)
        clock.advance(MINUTE + SECOND)
        async with asyncio.timeout(PATIENCE_S):
            await ran.wait()
        await running.server.schedule.idle()
        runs = await running.server.readers.run(lambda reader: reader.task_runs())

    assert clock.now() - 2 * MINUTE < runs["check-health"].last_due <= clock.now()


async def test_instants_that_were_claimed_by_a_clock_that_was_wrong_do_not_silence_a_task(
    path: Path, clock: WatchedClock
) -> None:
    async with serving(path, clock, schedules=EVERY_MINUTE) as running:
        ran = await run_of(running, "check-health")
        await running.server.committer.run(
            lambda transaction: transaction.claim_task("check-health", clock.now() + 60 * DAY, "wrong", "gone")
        )
        clock.advance(MINUTE)
        async with asyncio.timeout(PATIENCE_S):
            await ran.wait()


@pytest.mark.usefixtures("unscheduled")
async def test_a_task_that_never_ran_runs_once_when_one_of_its_instants_has_passed_since_the_store_was_made(
    path: Path, clock: WatchedClock
) -> None:
    schedules = {"cleanup": "0 2 * * *", "evict_inactive": "0 2 * * sun", "check_stale": "0 0 29 2 *"}
    async with serving(path, clock, schedules=schedules):
        pass
    clock.advance(DAY)
    async with serving(path, clock, schedules=schedules) as running:
        await running.server.schedule.idle()
        ran = set(await running.server.readers.run(lambda reader: reader.task_runs()))

    # The store was made on a Tuesday.
    assert ran & {"cleanup", "evict-inactive", "check-stale"} == {"cleanup"}


@pytest.mark.parametrize(
    ("schedule", "away"),
    [("0 2 * * sun", 30 * DAY), ("0 2 1 * *", 50 * DAY), ("0 0 29 2 *", 200 * DAY), ("* * * * *", 3_000 * DAY)],
)
@pytest.mark.usefixtures("unscheduled")
async def test_a_missed_instant_runs_however_long_ago_it_was(
    path: Path, clock: WatchedClock, schedule: str, away: int
) -> None:
    async with serving(path, clock, schedules={"cleanup": schedule}) as running:
        (task,) = [task for task in running.server.schedule.tasks if task.name == "cleanup"]
        await running.server.schedule.run_claimed(task, clock.now())
    clock.advance(away)
    runs = []
    for _ in range(2):
        async with serving(path, clock, schedules={"cleanup": schedule}) as running:
            await running.server.schedule.idle()
            runs.append((await running.server.readers.run(lambda reader: reader.task_runs()))["cleanup"])

    missed, again = runs
    assert again == missed
    instants = CronSim(schedule, datetime.fromtimestamp(clock.now() / SECOND, UTC), reverse=True)
    assert missed.last_due == next(instants).timestamp() * SECOND
    assert missed.start_time == clock.now()
