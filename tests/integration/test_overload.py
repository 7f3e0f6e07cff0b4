"""A full queue refuses at once and says when to come back; changes of state find room where progress does not."""

from __future__ import annotations

import asyncio
import gc

import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.engine import readers, write_queue

from ..support.calls import Refusal, create, fail, get, health_of, refused, report, start
from ..support.clock import WatchedClock
from ..support.held import held
from ..support.server import Running
from ..support.waiting import until


def assert_overloaded(refusal: Refusal) -> None:
    """The refusal says so, and when to come back."""
    assert refusal.brief == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    delay = refusal.detail(error_details_pb2.RetryInfo).retry_delay
    assert delay.ToMilliseconds() > 0


async def test_a_tenth_of_the_queue_is_kept_for_changes_of_state(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_queue, "QUEUE_ROWS_MAX", 20)
    for job_id in ("running", "one", "two", "three"):
        await create(running, job_id)
    await start(running, "running")

    async with held(running.server) as hold:
        reports = [asyncio.ensure_future(report(running, "running", progress=number)) for number in range(18)]
        await hold.has(18)
        assert_overloaded(await refused(report(running, "running", progress=99)))
        starts = [asyncio.ensure_future(start(running, job_id)) for job_id in ("one", "two")]
        await hold.has(20)
        assert_overloaded(await refused(start(running, "three")))
        hold.release()
        await asyncio.gather(*reports, *starts)

    assert (await get(running, "running")).progress == 17
    assert (await get(running, "one")).state == job_pb2.JOB_STATE_PROCESSING
    assert (await get(running, "three")).state == job_pb2.JOB_STATE_QUEUED
    assert running.server.committer.backlog == 0
    assert (await start(running, "three")).state == job_pb2.JOB_STATE_PROCESSING


async def test_the_queue_is_bounded_in_bytes_too(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "QUEUE_BYTES_MAX", 10_000)
    async with held(running.server) as hold:
        first = asyncio.ensure_future(create(running, "first", source_id="s" * 200))
        await hold.has(1)
        items = [pb.CreateRequest(job_type="default", source_id="s" * 200)] * 60
        refusal = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))
        hold.release()
        await first

    assert_overloaded(refusal)


async def test_a_full_queue_does_not_refuse_what_the_server_does_by_itself(
    running: Running, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(running)
    await start(running)
    due = (await fail(running)).next_retry_time
    monkeypatch.setattr(write_queue, "QUEUE_ROWS_MAX", 1)
    async with held(running.server) as hold:
        other = asyncio.ensure_future(create(running, "other"))
        await hold.has(1)
        assert_overloaded(await refused(create(running, "another")))
        clock.advance(due.ToMicroseconds() - clock.now())
        hold.release()
        await other
    await create(running, "after")

    assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING


async def test_too_many_calls_at_once_are_refused_and_health_is_still_told(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.server.grpc.calls.admission.calls, "limit", 4)
    async with held(running.server) as hold:
        creates = [asyncio.ensure_future(create(running, f"job-{number}")) for number in range(3)]
        await hold.has(3)
        assert_overloaded(await refused(get(running, "job-0")))
        assert await health_of(running) == health_pb2.HealthCheckResponse.SERVING
        hold.release()
        await asyncio.gather(*creates)

    assert (await get(running, "job-0")).id == "job-0"


async def test_refused_and_cancelled_calls_give_their_places_back_without_garbage_collection(running: Running) -> None:
    open_calls = running.server.grpc.calls.admission.calls
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert (await refused(get(running, "none"))).reason == "JOB_NOT_FOUND"
        async with held(running.server) as hold:
            creates = [asyncio.ensure_future(create(running, f"job-{number}")) for number in range(20)]
            await hold.has(20)
            for call in creates:
                call.cancel()
            await until(lambda: not open_calls.held)
            hold.release()
    finally:
        gc.enable()


async def test_too_many_reads_are_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "READS_WAITING_MAX", 0)

    assert_overloaded(await refused(get(running)))


async def test_a_client_that_makes_many_calls_at_once_over_one_connection_has_them_all_answered(
    running: Running,
) -> None:
    await create(running)

    for count in (150, 256, 1_000, 256):
        jobs = await asyncio.gather(*(get(running) for _ in range(count)))
        assert len(jobs) == count
