"""The benchmark's workers do the jobs that they are handed, and a sample counts only if the log shows all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from jobstate.v1 import event_pb2, job_pb2

from ..bench.bench import Bench, Sizes, Untrue
from ..bench.messages import EVERY_LEVEL, Request, create_request
from ..bench.parked import ParkedWorkers, hand_out_race, paced
from ..bench.processes import JobServer, stopping
from ..bench.worker_loads import worked
from ..bench.workers import Plan, Worked, calling_workers, stream_workers
from ..support.calls import create, get, history
from ..support.server import Running

JOBS = 40


async def states(running: Running, prefix: str) -> set[int]:
    return {(await get(running, f"{prefix}-{number}")).state for number in range(JOBS)}


@pytest.mark.parametrize("reports", [0, 3])
@pytest.mark.parametrize("way", ["streams", "calls"])
async def test_workers_do_each_job_that_they_create_once(running: Running, way: str, reports: int) -> None:
    plan = Plan(JOBS, 7, reports, prefix="made", levels=EVERY_LEVEL)
    if way == "streams":
        work = partial(stream_workers, running.server.address, plan, streams=2, workers=2)
    else:
        work = partial(calling_workers, running.server.address, plan, connections=2, workers=3)

    done = await asyncio.to_thread(work)

    assert (done.hand_outs, done.tally.problems) == (JOBS, [])
    assert await states(running, "made") == {job_pb2.JOB_STATE_COMPLETED}
    assert len(await history(running, "made-0")) == 3 + reports


async def test_jobs_that_are_given_back_are_handed_out_again(running: Running) -> None:
    for number in range(4):
        await create(running, f"again-{number}", job_type="bench")
    plan = Plan(3 * 4, 4, reports=0, makes=False, releases=True)

    done = await asyncio.to_thread(stream_workers, running.server.address, plan, streams=1, workers=1)

    assert (done.hand_outs, done.acquires, done.tally.problems) == (12, 3, [])
    assert (await get(running, "again-0")).attempt == 4


async def test_workers_that_are_refused_stop(running: Running) -> None:
    plan = Plan(JOBS, 1_001, prefix="x" * 200)

    done = await asyncio.to_thread(stream_workers, running.server.address, plan, streams=1, workers=1)

    assert done.hand_outs == 0
    assert done.tally.refused > 0


async def test_a_job_is_raced_to_the_worker_that_waits_for_it(running: Running) -> None:
    tally, heard = await asyncio.to_thread(hand_out_race, running.server.address, ["first", "second", "third"])

    # The first warms up.
    assert tally.answered == len(heard) == len(tally.took) == 2
    assert all(span > 0 for span in heard)
    assert (await get(running, "third")).state == job_pb2.JOB_STATE_COMPLETED


async def test_workers_that_wait_get_one_job_each_and_wait_again(running: Running) -> None:
    requests = [Request("Create", create_request(f"rare-{number}").SerializeToString()) for number in range(5)]
    workers = await asyncio.to_thread(ParkedWorkers, running.server.address, 2)
    try:
        made = await asyncio.to_thread(paced, running.server.address, requests, 1_000.0)
        served = await asyncio.to_thread(workers.wait_served, 5)
    finally:
        workers.close()

    assert (made.answered, served) == (5, 5)
    assert [event.type for event in await history(running, "rare-4")] == [
        event_pb2.EVENT_TYPE_QUEUED,
        event_pb2.EVENT_TYPE_STARTED,
    ]


@contextmanager
def measured(running_in: Any) -> Iterator[tuple[Bench, JobServer]]:
    server = JobServer(running_in / "jobs.db")
    with stopping(server):
        yield Bench(1, Sizes(), None, running_in), server  # type: ignore[arg-type]


@pytest.mark.parametrize("claimed", [JOBS - 1, JOBS, JOBS + 1])
def test_a_sample_counts_if_the_log_shows_its_hand_outs(tmp_path: Any, claimed: int) -> None:
    plan = Plan(JOBS, 10, reports=0, prefix="made")

    def load() -> Worked:
        done = stream_workers(server.address, plan, streams=1, workers=1)
        done.hand_outs = claimed
        return done

    with measured(tmp_path) as (bench, server):
        if claimed == JOBS:
            assert worked(bench, server, load, plan)[0].ops == JOBS
        else:
            with pytest.raises(Untrue):
                worked(bench, server, load, plan)
