"""Cleanup takes its share of the committer's time while callers wait, and all of it when nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from typing import Any, cast

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.commands import DeleteFinished
from jobstate_server.domain.durations import DAY, MILLISECOND
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import FinishedJob, JobState
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import DeletedOutcome, Outcome
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.cleanup import Cleanup
from jobstate_server.maintenance.slices import TASK_SHARE
from jobstate_server.maintenance.sweep import Run

JOB_TIME = 50
"""Microseconds that the deletion of a job takes here."""


class Store:
    """A committer over a store of finished jobs: it deletes what it is asked to, and says what that took."""

    def __init__(
        self, clock: ManualClock, jobs: int, *, others: int = 0, backlog: int = 0, kept: Container[int] = ()
    ) -> None:
        """``kept``: the numbers of jobs that others still need."""
        self._clock = clock
        self._jobs = [
            FinishedJob(f"{number:05}", number, "t", "", "", JobState.COMPLETED, number, is_kept=number in kept)
            for number in range(jobs)
        ]
        self._others = others
        self.backlog = backlog
        self.commands: list[DeleteFinished] = []
        self.deleted: list[FinishedJob] = []
        self.busy = 0

    def submit_own(self, command: DeleteFinished) -> asyncio.Future[Outcome]:
        self.commands.append(command)
        slice_, self._jobs = self._jobs[: command.limit], self._jobs[command.limit :]
        self.deleted += slice_
        spent = JOB_TIME * len(slice_)
        self.busy += spent
        self._clock.advance(spent)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        future.set_result(
            DeletedOutcome(
                (),
                deleted=[job for job in slice_ if not job.is_kept],
                found=len(slice_),
                last=slice_[-1] if slice_ else None,
                spent=spent,
                others=self._others,
            )
        )
        return future

    def run(self, work: Callable[[Any], Any]) -> asyncio.Future[Any]:
        """There are no events to remove."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result((0, 0))
        return future


def a_cleanup(store: Store, clock: ManualClock) -> Cleanup:
    return Cleanup(
        "0 2 * * *",
        cast("Committer", store),
        cast("Readers", None),
        clock,
        job_retention=DAY,
        event_retention=DAY,
        event_retention_bytes=2**30,
    )


async def run_through(cleanup: Cleanup, clock: ManualClock) -> int:
    """Run it to its end, and let the time of its pauses pass. Returns how long it took."""
    began = clock.now()
    run = asyncio.ensure_future(cleanup.run_once(Run()))
    while not run.done():
        await asyncio.sleep(0)
        if not run.done():
            clock.advance(MILLISECOND // 10)
    assert (await run).count == 20_000
    return clock.now() - began


@pytest.mark.parametrize(("others", "backlog"), [(1, 0), (0, 1)], ids=["in the batch", "waiting"])
async def test_while_callers_wait_a_cleanup_takes_no_more_than_its_share(others: int, backlog: int) -> None:
    clock = ManualClock()
    store = Store(clock, 20_000, others=others, backlog=backlog)

    took = await run_through(a_cleanup(store, clock), clock)

    assert store.busy <= TASK_SHARE * took * 1.01
    assert store.busy >= TASK_SHARE * took * 0.9


async def test_when_nobody_waits_a_cleanup_never_pauses() -> None:
    clock = ManualClock()
    store = Store(clock, 20_000)

    result = await a_cleanup(store, clock).run_once(Run())

    assert result.count == 20_000
    assert store.busy == 20_000 * JOB_TIME


async def test_slices_follow_one_another_in_the_order_in_which_the_jobs_ended() -> None:
    clock = ManualClock()
    store = Store(clock, 1_000)

    result = await a_cleanup(store, clock).run_once(Run(), older_than=0)

    assert [job.complete_time for job in store.deleted] == list(range(1_000))
    assert result.job_ids == [f"{number:05}" for number in range(100)]
    last: Position | None = None
    for command in store.commands:
        assert command.after == last
        end = min(1_000, command.limit + (0 if last is None else last.time + 1)) - 1
        last = Position(end, end)


async def test_a_run_that_another_replica_has_taken_over_deletes_nothing_more() -> None:
    clock = ManualClock()
    store = Store(clock, 1_000)

    async def still_claimed() -> bool:
        return len(store.commands) < 2

    result = await a_cleanup(store, clock).run_once(Run(still_claimed=still_claimed))

    assert len(store.commands) == 2
    assert result.count == len(store.deleted) < 1_000


async def test_jobs_that_others_need_are_passed_over_however_many_there_are() -> None:
    clock = ManualClock()
    store = Store(clock, 3_000, kept=range(10, 2_990))

    result = await a_cleanup(store, clock).run_once(Run())

    assert result.count == 20
