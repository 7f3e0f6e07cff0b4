"""A unique key: while a job has it, Create returns that job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import acquire, cancel, complete, fail, get, history, names, start
from ..support.clock import WatchedClock
from ..support.server import Running, serving_url


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn."""
    async with serving_url(url, clock) as running:
        yield running


async def _create(running: Running, **fields: Any) -> tuple[str, bool]:
    answer = await running.jobs.Create(pb.CreateRequest(job_type="default", unique_key="key", **fields))
    return answer.job.id, answer.existing


async def test_create_returns_the_job_that_has_the_key(running: Running) -> None:
    """Row 29."""
    assert await _create(running, id="first") == ("first", False)
    assert await _create(running, id="second", request_id="request-1") == ("first", True)
    await acquire(running)
    assert await _create(running) == ("first", True)
    assert await _create(running, id="second", request_id="request-1") == ("first", True)
    assert (await get(running, "first")).unique_key == "key"
    assert names(await history(running)) == ["queued", "started"]

    await complete(running, "first")

    assert await _create(running, id="second") == ("second", False)


@pytest.mark.parametrize("job_type", ["default", "resting"])
async def test_a_job_that_failed_and_is_not_final_has_its_key(running: Running, job_type: str) -> None:
    """Row 29: while it waits for its retry, and while it rests in FAILED."""
    create = pb.CreateRequest(job_type=job_type, id="first", unique_key="key")
    await running.jobs.Create(create)
    await acquire(running, job_type)
    failed = (await fail(running, "first", attempt=1)).state
    create.id = "second"

    answer = await running.jobs.Create(create)

    assert failed == {"default": job_pb2.JOB_STATE_RETRYING, "resting": job_pb2.JOB_STATE_FAILED}[job_type]
    assert (answer.job.id, answer.job.state, answer.existing) == ("first", failed, True)
    await cancel(running, "first")
    assert not (await running.jobs.Create(create)).existing


async def test_a_job_that_is_unique_until_it_starts_lets_the_next_wait_while_it_runs(running: Running) -> None:
    """Row 30."""
    until = {"unique_until": pb.UNIQUE_UNTIL_STARTED}
    await _create(running, id="first", **until)
    assert await _create(running, **until) == ("first", True)
    await acquire(running)

    assert await _create(running, id="second", **until) == ("second", False)
    assert await _create(running, **until) == ("second", True)


async def test_a_key_is_given_up_and_taken_in_one_commit(running: Running) -> None:
    await _create(running, id="first")
    await start(running, "first")
    updates = [
        pb.JobUpdate(complete=pb.CompleteRequest(id="first")),
        pb.JobUpdate(create=pb.CreateRequest(id="second", job_type="default", unique_key="key")),
        pb.JobUpdate(create=pb.CreateRequest(id="third", job_type="default", unique_key="key")),
    ]

    (answer,) = [
        answer async for answer in running.jobs.StreamUpdates(iter([pb.StreamUpdatesRequest(updates=updates)]))
    ]

    assert [(outcome.id, outcome.existing) for outcome in answer.outcomes] == [
        ("first", False),
        ("second", False),
        ("second", True),
    ]


async def test_a_batch_says_which_of_its_jobs_were_there(running: Running) -> None:
    requests = [pb.CreateRequest(id=job_id, job_type="default", unique_key=key) for job_id, key in ("ax", "by", "cx")]
    answer = await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))

    assert [(job.id, job.existing) for job in answer.jobs] == [("a", False), ("b", False), ("a", True)]
