"""A worker takes jobs in the order in which they became ready, and a job loses nothing by waiting."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from jobstate_client import AttemptOutcome, Client, EventType, NewJob, Run, State
from jobstate_client.testing import JobstateServer, serving

from .support import PATIENCE_S, in_thread

WORK_S = 2.0
"""What each job takes, of the server's time."""

STALE_S = 5.0
FAILING, OTHERS, YOUNGER = 20, 40, 10


def completed(client: Client, count: int) -> None:
    """Wait until so many jobs have completed."""
    with client.watch(start="earliest", types=[EventType.COMPLETED], patience=PATIENCE_S) as watch:
        for _ in range(count):
            next(watch)


@pytest.mark.timeout(60)
def test_a_busy_worker_with_many_waiting_jobs_completes_what_failed_once_and_nothing_goes_stale() -> None:
    with serving(job_types={"clean_transcript": {"stale_threshold": f"{STALE_S}s"}}) as server:
        client = server.client()
        created = client.create_many(NewJob("clean_transcript") for _ in range(FAILING + OTHERS))
        ids = [job.id for job in created]
        failing, last = set(ids[:FAILING]), ids[-1]
        done: list[tuple[str, int]] = []

        def work(run: Run) -> None:
            done.append((run.id, run.attempt))
            server.advance(WORK_S)
            assert client.check_stale().count == 0
            if run.id == last:
                ids.extend(job.id for job in client.create_many(NewJob("clean_transcript") for _ in range(YOUNGER)))
            if run.id in failing and run.attempt == 1:
                raise RuntimeError("not yet")

        worker = client.worker(work, job_types=["clean_transcript"])
        with in_thread(worker.run):
            completed(client, FAILING + OTHERS + YOUNGER)
            worker.stop()

        # The retries were due long before the younger jobs came, and long after the others had.
        older, younger = ids[: FAILING + OTHERS], ids[FAILING + OTHERS :]
        expected = [(job_id, 1) for job_id in older]
        expected += [(job_id, 2) for job_id in older[:FAILING]]
        expected += [(job_id, 1) for job_id in younger]
        assert done == expected
        for job_id in failing:
            job, attempts = client.get(job_id), client.attempts(job_id)
            assert (job.state, job.attempt, job.retry_count) == (State.COMPLETED, 2, 1)
            assert [each.outcome for each in attempts] == [AttemptOutcome.FAILED, AttemptOutcome.COMPLETED]
            assert job.duration == timedelta(seconds=2 * WORK_S)
            assert job.waited is not None
            assert job.waited > timedelta(seconds=10 * STALE_S)
        stale = list(client.watch(start="earliest", types=[EventType.STALE_DETECTED], follow=False))
        assert stale == []


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_one_worker_does_40_jobs_one_after_the_other_in_the_order_of_their_creation(
    client: Client, server: JobstateServer, kind: str
) -> None:
    ids = [job.id for job in client.create_many(NewJob("work") for _ in range(20))]
    ids += [client.create("work").id for _ in range(20)]
    done: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        if kind == "sync":
            worker = client.worker(lambda run: done.append(run.id), job_types=["work"])
            with in_thread(worker.run):
                await asyncio.to_thread(completed, client, 40)
                worker.stop()
        else:
            async with server.async_client() as async_client:

                async def work(run: Run) -> None:
                    done.append(run.id)

                async_worker = async_client.worker(work, job_types=["work"])
                running = asyncio.create_task(async_worker.run())
                await asyncio.to_thread(completed, client, 40)
                async_worker.stop()
                await running

    assert done == ids
