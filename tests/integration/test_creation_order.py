"""Jobs whose ids the server makes list in the order in which they were created, also those of one commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import micros
from ..support.server import Running


async def listed(running: Running, order: pb.ListOrder.ValueType) -> list[str]:
    return [job.id for job in (await running.jobs.List(pb.ListRequest(page_size=1_000, order=order))).jobs]


async def test_a_batch_lists_in_its_own_order(running: Running) -> None:
    requests = [pb.CreateRequest(job_type="default") for _ in range(1_000)]
    made = [job.id for job in (await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))).jobs]

    assert await listed(running, pb.LIST_ORDER_CREATE_TIME_ASC) == made
    assert await listed(running, pb.LIST_ORDER_CREATE_TIME_DESC) == made[::-1]


async def test_jobs_of_one_stream_and_one_commit_list_in_the_order_of_the_updates(running: Running) -> None:
    updates = [pb.JobUpdate(create=pb.CreateRequest(job_type="default")) for _ in range(200)]

    async def batches() -> AsyncIterator[pb.StreamUpdatesRequest]:
        yield pb.StreamUpdatesRequest(batch=1, updates=updates)

    (answer,) = [answer async for answer in running.jobs.StreamUpdates(batches())]

    assert await listed(running, pb.LIST_ORDER_CREATE_TIME_ASC) == [outcome.id for outcome in answer.outcomes]


async def test_jobs_created_at_once_list_in_the_order_of_their_versions(running: Running) -> None:
    """Calls that race are in order as the server took them: by time, version and id alike."""
    created = await asyncio.gather(*(running.jobs.Create(pb.CreateRequest(job_type="default")) for _ in range(100)))
    jobs = sorted((answer.job for answer in created), key=lambda job: job.version)

    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    assert [micros(job.create_time) for job in jobs] == sorted(micros(job.create_time) for job in jobs)
    assert await listed(running, pb.LIST_ORDER_CREATE_TIME_ASC) == [job.id for job in jobs]
