"""RecreateMany, RetryMany and CancelMany: each job once, whoever goes on with the work and whenever."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.limits import BULK_CALLS_MAX

from ..support.calls import acquire, cancel, create, fail, get, history, names, refused, settled, span, start, watching
from ..support.postgres import postgres_server
from ..support.server import RESTING, Client, Running, client_of, served, serving_url
from .relating import create_group, fail_for_good, work

ID = "request-1"
FAILED, LOST = job_pb2.JOB_STATE_PERMANENTLY_FAILED, job_pb2.JOB_STATE_CANCELLED


@pytest.fixture
async def running(url: str) -> AsyncIterator[Running]:
    """A server on each store in turn. Runs pause where others wait, so time must go on."""
    async with serving_url(url) as running:
        yield running


def some(**fields: Any) -> pb.JobFilter:
    """A filter."""
    return pb.JobFilter(**fields)


async def recreate_many(client: Client, **fields: Any) -> pb.BulkProgress:
    """One call of RecreateMany."""
    fields = {"request_id": "" if fields.get("dry_run") else ID} | fields
    return (await client.jobs.RecreateMany(pb.RecreateManyRequest(**fields))).progress


async def to_the_end(client: Client, **fields: Any) -> pb.BulkProgress:
    """Calls of RecreateMany until there is no more to do."""
    while (progress := await recreate_many(client, **fields)).more:
        pass
    return progress


async def make_cancelled(client: Client, count: int, job_type: str = "default") -> None:
    """Make jobs that are CANCELLED. They were not created in one commit."""
    for first in range(0, count, 100):
        ids = [f"old-{number}" for number in range(first, min(count, first + 100))]
        made = [pb.CreateRequest(id=job_id, job_type=job_type) for job_id in ids]
        await client.jobs.BatchCreate(pb.BatchCreateRequest(requests=made))
        await asyncio.gather(*(cancel(client, job_id) for job_id in ids))


async def every(client: Client, **fields: Any) -> list[job_pb2.Job]:
    """All jobs of these filters."""
    found: list[job_pb2.Job] = []
    token = ""
    while True:
        page = await client.jobs.List(pb.ListRequest(page_size=1_000, page_token=token, **fields))
        found += page.jobs
        token = page.next_page_token
        if not token:
            return found


async def revived(client: Client) -> Counter[str]:
    """How often each job was recreated."""
    return Counter(job.recreated_from for job in await every(client) if job.recreated_from)


async def test_all_that_match_are_recreated_and_no_others(running: Running) -> None:
    await create(running, "wanted", source_id="here")
    await create(running, "elsewhere")
    await create(running, "waiting", source_id="here")
    await fail_for_good(running, "wanted", "elsewhere")

    progress = await recreate_many(running, filter=some(source_id="here"))

    assert progress == pb.BulkProgress(matched=1, done=1, job_ids=["wanted"])
    assert await revived(running) == {"wanted": 1}
    assert (await get(running, "waiting")).state == job_pb2.JOB_STATE_QUEUED
    assert [job.recreated_from for job in await acquire(running, max_jobs=10)] == ["", "wanted"]


async def test_what_is_skipped_is_counted_by_reason(running: Running) -> None:
    await create_group(running, "group", source_id="here")
    await cancel(running, "group")
    await create(running, "old", unique_key="key", source_id="here")
    await cancel(running, "old")
    await create(running, "successor", unique_key="key", source_id="here")
    states = [job_pb2.JOB_STATE_QUEUED, LOST]

    dry = await recreate_many(running, filter=some(source_id="here", states=states), dry_run=True)
    progress = await recreate_many(running, filter=some(source_id="here", states=states))

    assert {skip.reason: skip.count for skip in dry.skipped} == {pb.SKIP_REASON_STATE: 1, pb.SKIP_REASON_GROUP: 1}
    assert {skip.reason: skip.count for skip in progress.skipped} == {
        pb.SKIP_REASON_STATE: 1,
        pb.SKIP_REASON_GROUP: 1,
        pb.SKIP_REASON_UNIQUE_KEY: 1,
    }
    assert (progress.matched, progress.done, progress.more) == (3, 0, False)


async def test_a_dry_run_counts_and_changes_nothing(running: Running) -> None:
    await make_cancelled(running, 120)
    before = len(await history(running))

    progress = await recreate_many(running, filter=some(states=[LOST]), dry_run=True)
    capped = await recreate_many(running, all=True, dry_run=True, limit=7)

    assert (progress.matched, progress.done, progress.more, len(progress.job_ids)) == (120, 120, False, 100)
    assert (capped.done, capped.limit_reached, len(capped.job_ids)) == (7, True, 7)
    assert len(await history(running)) == before


async def test_jobs_that_the_run_itself_has_made_are_not_recreated_by_it(running: Running) -> None:
    await make_cancelled(running, 5)
    running.server.job_service.bulk_runs.call_s = 0
    running.server.job_service.bulk_runs._pace._size.rows = 2

    while (await recreate_many(running, filter=some(states=[LOST]))).more:
        for job in await every(running, states=[job_pb2.JOB_STATE_QUEUED]):
            await cancel(running, job.id)

    assert await revived(running) == {f"old-{number}": 1 for number in range(5)}


async def test_a_repeat_goes_on_and_at_the_end_changes_nothing(running: Running) -> None:
    await make_cancelled(running, 300)
    running.server.job_service.bulk_runs.call_s = 0

    first = await recreate_many(running, filter=some(states=[LOST]))
    last = await to_the_end(running, filter=some(states=[LOST]))
    again = await recreate_many(running, filter=some(states=[LOST]))

    assert first.more
    assert 0 < first.done < 300
    assert (last.matched, last.done, last.more) == (300, 300, False)
    assert (again.matched, again.done, again.more, list(again.job_ids)) == (300, 300, False, [])
    assert set((await revived(running)).values()) == {1}


async def test_two_callers_at_once_do_it_once(running: Running) -> None:
    await make_cancelled(running, 1_000)

    both = await asyncio.gather(*(to_the_end(running, filter=some(states=[LOST])) for _ in range(3)))

    assert [(progress.matched, progress.done) for progress in both] == [(1_000, 1_000)] * 3
    assert sum(len(progress.job_ids) for progress in both) >= 100
    assert await revived(running) == {f"old-{number}": 1 for number in range(1_000)}


async def test_two_replicas_at_once_do_it_once() -> None:
    url = postgres_server().new_store()
    async with serving_url(url) as one, serving_url(url) as other:
        await make_cancelled(one, 1_000)
        for each in (one, other):
            each.server.job_service.bulk_runs.call_s = 0

        both = await asyncio.gather(*(to_the_end(each, filter=some(states=[LOST])) for each in (one, other)))

        assert [(progress.matched, progress.done) for progress in both] == [(1_000, 1_000)] * 2
        assert await revived(one) == {f"old-{number}": 1 for number in range(1_000)}


async def test_killed_in_the_middle_and_repeated_it_is_done_once(path: Path) -> None:
    wanted = some(states=[LOST])
    async with served(path) as process, client_of(process.address) as client:
        await make_cancelled(client, 1_000)
        call = asyncio.ensure_future(recreate_many(client, filter=wanted))
        while not await every(client, states=[job_pb2.JOB_STATE_QUEUED]):
            assert not call.done()
        await process.end(signal.SIGKILL)
        await asyncio.gather(call, return_exceptions=True)
    async with served(path) as process, client_of(process.address) as client:
        progress = await to_the_end(client, filter=wanted)

        assert (progress.matched, progress.done) == (1_000, 1_000)
        assert await revived(client) == {f"old-{number}": 1 for number in range(1_000)}


async def test_the_limit_holds_over_all_calls(running: Running) -> None:
    await make_cancelled(running, 200)
    running.server.job_service.bulk_runs.call_s = 0

    progress = await to_the_end(running, all=True, limit=150)
    again = await recreate_many(running, all=True, limit=150)

    assert (progress.done, progress.more, progress.limit_reached) == (150, False, True)
    assert (again.done, again.limit_reached) == (150, True)
    assert await revived(running) == {f"old-{number}": 1 for number in range(150)}


async def test_a_job_that_changes_after_it_was_read_is_judged_anew(running: Running) -> None:
    """Jobs are read page by page. Between two calls of the test, some of a page that was read go on."""
    await make_cancelled(running, 1)
    await create(running, "gone-on", RESTING)
    await start(running, "gone-on")
    await fail(running, "gone-on")
    answers = running.server.readers.run

    async def late(*arguments: Any, **options: Any) -> Any:
        found = await answers(*arguments, **options)
        if isinstance(found, tuple):
            await cancel(running, "gone-on")
            running.server.readers.run = answers  # type: ignore[method-assign]
        return found

    running.server.readers.run = late  # type: ignore[assignment,method-assign]
    answer = await running.jobs.RetryMany(pb.RetryManyRequest(all=True, request_id=ID))

    assert answer.progress == pb.BulkProgress()


async def test_failed_jobs_are_retried_and_with_immediately_those_that_wait_too(running: Running) -> None:
    for job_id, job_type in (("resting", RESTING), ("retrying", "default")):
        await create(running, job_id, job_type)
        await start(running, job_id)
        await fail(running, job_id, retry_delay=span(50))
    await create(running, "queued")

    waits = await running.jobs.RetryMany(pb.RetryManyRequest(all=True, request_id=ID))
    at_once = await running.jobs.RetryMany(pb.RetryManyRequest(all=True, request_id=ID + "0", immediately=True))
    repeated = await running.jobs.RetryMany(pb.RetryManyRequest(all=True, request_id=ID + "0", immediately=True))

    assert list(waits.progress.job_ids) == ["resting"]
    assert list(at_once.progress.job_ids) == ["resting", "retrying"]
    assert (repeated.progress.done, list(repeated.progress.job_ids)) == (2, [])
    assert {(await get(running, each)).attempt for each in ("resting", "retrying")} == {2}
    assert (await get(running, "queued")).attempt == 0


async def test_a_job_that_is_retrying_already_is_skipped(running: Running) -> None:
    await create(running)
    await start(running)
    await fail(running)

    states = some(states=[job_pb2.JOB_STATE_RETRYING])
    answer = await running.jobs.RetryMany(pb.RetryManyRequest(filter=states, request_id=ID))

    assert answer.progress == pb.BulkProgress(matched=1, skipped=[pb.SkippedJobs(reason=pb.SKIP_REASON_STATE, count=1)])


async def test_jobs_that_have_not_ended_are_cancelled_and_the_members_of_groups_with_them(
    running: Running,
) -> None:
    await create(running, "ended", source_id="tenant")
    await work(running, "ended")
    group = await create_group(running, source_id="tenant")
    await create(running, "member", group_id=group.id)
    await create(running, "running", source_id="tenant")
    await start(running, "running")
    await create(running, "waiting", source_id="tenant")

    cancelled = pb.CancelManyRequest(filter=some(source_id="tenant"), request_id=ID, reason="the tenant has left")
    answer = await running.jobs.CancelMany(cancelled)

    assert list(answer.progress.job_ids) == ["group", "running", "waiting"]
    assert (await get(running, "running")).cancel_reason == "the tenant has left"
    assert (await get(running, "ended")).state == job_pb2.JOB_STATE_COMPLETED
    async with watching(running, pb.WatchEventsRequest(job_ids=["member"], until_final=True)) as watch:
        await watch.rest()
    assert names(await history(running)).count("cancelled") == 4


async def test_what_names_too_little_or_too_much_is_refused(running: Running) -> None:
    async def fields_of(**fields: Any) -> list[str]:
        request = pb.CancelManyRequest(**({"request_id": ID} | fields))
        refusal = await refused(running.jobs.CancelMany(request))
        assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
        return refusal.fields

    await create(running)
    assert await fields_of() == ["filter"]
    assert await fields_of(filter=some()) == ["filter"]
    assert await fields_of(filter=some(source_id="s"), all=True) == ["all"]
    assert await fields_of(all=True, request_id="") == ["request_id"]
    assert await fields_of(all=True, dry_run=True) == ["request_id"]
    assert await fields_of(all=True, limit=-1) == ["limit"]
    assert await fields_of(all=True, limit=1_000_001, reason="r" * 4_097) == ["reason", "limit"]
    assert await fields_of(filter=some(states=[0, 99])) == ["filter.states[0]", "filter.states[1]"]
    assert await fields_of(filter=some(group_id="a", needs="b")) == ["filter.needs"]
    newer = pb.JobFilter.FromString(some(job_types=["default"]).SerializeToString() + b"\x8a\x7d\x01x")
    assert await fields_of(filter=newer) == ["filter"]
    assert (await get(running)).state == job_pb2.JOB_STATE_QUEUED


async def test_a_request_id_is_that_of_one_call_whatever_its_kind(running: Running) -> None:
    await create(running, request_id="request-2")
    await running.jobs.CancelMany(pb.CancelManyRequest(all=True, request_id=ID))
    others = (
        running.jobs.CancelMany(pb.CancelManyRequest(all=True, request_id=ID, reason="another")),
        running.jobs.RecreateMany(pb.RecreateManyRequest(all=True, request_id=ID)),
        running.jobs.CancelMany(pb.CancelManyRequest(all=True, request_id="request-2")),
        running.jobs.Create(pb.CreateRequest(job_type="default", request_id=ID)),
        running.jobs.Recreate(pb.RecreateRequest(id="job", request_id=ID)),
        running.jobs.Acquire(pb.AcquireRequest(job_types=["default"], request_id=ID)),
    )

    assert [(await refused(call)).reason for call in others] == ["REQUEST_ID_REUSED"] * 6


async def test_so_many_calls_are_under_way_and_no_more(running: Running) -> None:
    runs = running.server.job_service.bulk_runs
    await runs._turn.acquire()
    requests = [pb.CancelManyRequest(all=True, request_id=f"{ID}{number}") for number in range(BULK_CALLS_MAX)]
    calls = [asyncio.ensure_future(running.jobs.CancelMany(request)) for request in requests]
    while runs._calls < BULK_CALLS_MAX:
        await settled(running)

    refusal = await refused(running.jobs.CancelMany(pb.CancelManyRequest(all=True, dry_run=True)))

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    runs._turn.release()
    await asyncio.gather(*calls)
    assert not (await running.jobs.CancelMany(pb.CancelManyRequest(all=True, dry_run=True))).progress.more


def test_the_filter_has_the_fields_of_a_list() -> None:
    """The server reads the one as the other."""
    own = {"page_size", "page_token", "order"}

    def shapes(message: Any) -> dict[str, tuple[int, int, bool]]:
        return {field.name: (field.number, field.type, field.is_repeated) for field in message.DESCRIPTOR.fields}

    listed = shapes(pb.ListRequest)
    assert shapes(pb.JobFilter) == {name: shape for name, shape in listed.items() if name not in own}
