"""A job that has ended is created once more, as a new job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import SECOND

from ..support.calls import (
    acquire,
    cancel,
    create,
    fail,
    get,
    history,
    names,
    refused,
    report,
    settled,
    span,
    start,
    struct,
)
from ..support.clock import WatchedClock
from ..support.postgres import postgres_server
from ..support.server import RESTING, Client, Running, serving_url
from .relating import create_group, work

TERMS = ("job_type", "source_id", "metadata", "max_retries", "timeout", "priority", "lane", "start_within")
"""What a new job has of the old one."""


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn."""
    async with serving_url(url, clock) as running:
        yield running


async def recreate(client: Client, job_id: str = "old", **fields: Any) -> job_pb2.Job:
    """Recreate a job that has ended."""
    return (await client.jobs.Recreate(pb.RecreateRequest(id=job_id, **fields))).job


async def test_the_new_job_has_the_terms_of_the_old_one_and_begins_anew(running: Running, clock: WatchedClock) -> None:
    await create(
        running,
        "old",
        source_id="source",
        metadata=struct(a=1),
        max_retries=7,
        timeout=span(90),
        priority=job_pb2.PRIORITY_HIGH,
        lane="tenant",
        start_within=span(50),
        delay=span(1),
    )
    clock.advance(SECOND)
    await settled(running)
    await start(running, "old", worker="worker")
    await report(running, "old", metadata=struct(place=5), usage=job_pb2.Usage(tokens=9))
    await fail(running, "old", retryable=False)
    old = await get(running, "old")
    clock.advance(SECOND)

    new = await recreate(running)

    assert [getattr(new, name) for name in TERMS] == [getattr(old, name) for name in TERMS]
    assert dict(new.metadata) == {"a": 1, "place": 5}
    assert (new.recreated_from, new.state, new.attempt) == ("old", job_pb2.JOB_STATE_QUEUED, 0)
    assert (new.estimated_tokens, new.retry_count, new.worker) == (0, 0, "")
    assert new.create_time == new.ready_time == new.update_time
    assert new.create_time.ToMicroseconds() == clock.now()
    assert not new.HasField("last_error")
    assert await get(running, "old") == old
    assert await get(running, new.id) == new
    (event,) = await history(running, new.id)
    assert (event.name, event.job.recreated_from) == ("processing-job.queued", "old")
    assert [job.id for job in await acquire(running)] == [new.id]


async def test_a_recreated_job_expires_as_the_old_one_would(running: Running, clock: WatchedClock) -> None:
    await create(running, "old", start_within=span(5))
    await cancel(running, "old")
    new = await recreate(running)

    clock.advance(5 * SECOND)
    await settled(running)

    assert (await get(running, new.id)).cancel_cause == job_pb2.CANCEL_CAUSE_EXPIRED


async def test_a_repeat_returns_the_job_that_was_made_as_it_now_is(running: Running) -> None:
    await create(running, "old")
    await work(running, "old")
    made = await recreate(running, request_id="request-1")
    await start(running, made.id)

    again = await recreate(running, request_id="request-1")

    assert (again.id, again.state) == (made.id, job_pb2.JOB_STATE_PROCESSING)
    assert (await recreate(running)).id != made.id
    other = await refused(running.jobs.Recreate(pb.RecreateRequest(id=made.id, request_id="request-1")))
    assert other.reason == "REQUEST_ID_REUSED"


async def test_of_many_with_one_request_id_one_makes_a_job(running: Running) -> None:
    await create(running, "old")
    await work(running, "old")

    made = await asyncio.gather(*(recreate(running, request_id="request-1") for _ in range(20)))

    assert len({job.id for job in made}) == 1
    assert names(await history(running)).count("queued") == 2


async def test_what_was_recreated_can_be_recreated(running: Running) -> None:
    await create(running, "old")
    await work(running, "old")
    second = await recreate(running)
    await work(running, second.id)

    assert (await recreate(running, second.id)).recreated_from == second.id


@pytest.mark.parametrize("state", ["QUEUED", "PROCESSING", "FAILED", "RETRYING"])
async def test_a_job_that_has_not_ended_is_refused(running: Running, state: str) -> None:
    await create(running, "old", RESTING if state == "FAILED" else "default")
    if state != "QUEUED":
        await start(running, "old")
    if state in {"FAILED", "RETRYING"}:
        await fail(running, "old")

    refusal = await refused(running.jobs.Recreate(pb.RecreateRequest(id="old")))

    assert refusal.brief == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")
    assert (refusal.metadata["trigger"], refusal.metadata["state"]) == ("recreate", state)
    assert "Recreate is not allowed" in refusal.message


async def test_a_group_is_refused_and_a_member_leaves_its_group_and_needs_behind(running: Running) -> None:
    group = await create_group(running)
    await create(running, "needed", group_id=group.id)
    await create(running, "old", group_id=group.id, needs=[pb.Need(job_id="needed")])
    await cancel(running, "old")
    await cancel(running, group.id)

    new = await recreate(running)
    refusal = await refused(running.jobs.Recreate(pb.RecreateRequest(id=group.id)))

    assert (new.group_id, new.wait_reason) == ("", job_pb2.WAIT_REASON_TURN)
    assert (refusal.reason, refusal.metadata["why"]) == ("TRANSITION_NOT_ALLOWED", "group")


async def test_the_unique_key_goes_on_unless_another_job_has_it(running: Running) -> None:
    async def asked(**fields: Any) -> tuple[str, bool]:
        answer = await running.jobs.Recreate(pb.RecreateRequest(id="old", **fields))
        return answer.job.id, answer.existing

    await create(running, "old", unique_key="key")
    await work(running, "old")
    await create(running, "successor", unique_key="key")

    assert await asked(request_id="request-1") == ("successor", True)
    await work(running, "successor")
    assert await asked(request_id="request-1") == ("successor", True)
    new = await recreate(running)
    assert (new.unique_key, new.recreated_from) == ("key", "old")
    assert await asked() == (new.id, True)
    answer = await running.jobs.Create(pb.CreateRequest(job_type="default", unique_key="key"))
    assert (answer.job.id, answer.existing) == (new.id, True)


async def test_of_two_recreations_of_one_key_at_once_one_makes_a_job(running: Running) -> None:
    for job_id in ("old", "older"):
        await create(running, job_id, unique_key="key")
        await work(running, job_id)

    made = await asyncio.gather(*(recreate(running, job_id) for job_id in ["old", "older"] * 5))

    assert len({job.id for job in made}) == 1


async def test_a_job_that_is_not_there_and_bad_ids_are_refused(running: Running) -> None:
    missing = await refused(running.jobs.Recreate(pb.RecreateRequest(id="nobody")))
    bad = await refused(running.jobs.Recreate(pb.RecreateRequest(id="-", request_id="short")))

    assert missing.brief == ("NOT_FOUND", "JOB_NOT_FOUND")
    assert bad.fields == ["id", "request_id"]


async def test_a_type_that_may_not_be_used_any_more_is_refused(url: str, clock: WatchedClock) -> None:
    async with serving_url(url, clock) as running:
        await create(running, "old", "forgotten")
        await work(running, "old")
    async with serving_url(url, clock, strict_job_types=True) as running:
        refusal = await refused(running.jobs.Recreate(pb.RecreateRequest(id="old")))
    async with serving_url(url, clock) as running:
        new = await recreate(running)

    assert (refusal.reason, refusal.metadata["job_type"]) == ("UNKNOWN_JOB_TYPE", "forgotten")
    assert new.job_type == "forgotten"


async def test_replicas_make_one_job_of_one_request_id() -> None:
    url = postgres_server().new_store()
    async with serving_url(url) as one, serving_url(url) as other:
        await create(one, "old", "forgotten", unique_key="key")
        await work(one, "old")

        made = await asyncio.gather(*(recreate(each, request_id="request-1") for each in [one, other] * 5))
        by_key = await asyncio.gather(*(recreate(each) for each in [one, other] * 5))

    assert len({job.id for job in [*made, *by_key]}) == 1
