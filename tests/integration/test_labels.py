"""Labels: given at Create, told wherever the job is, and what jobs are found by."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import SECOND

from ..support.calls import complete, create, get, history, names, refused, span, start, struct, watching
from ..support.clock import WatchedClock
from ..support.server import Running
from .support import looks_like_a_label

LABELS = {"tenant": "acme", "env": "", "app.kubernetes.io/name": "ß 𝔘 %"}


async def found(running: Running, **filters: Any) -> list[str]:
    """The ids of one page, oldest first."""
    page = await running.jobs.List(pb.ListRequest(order=pb.LIST_ORDER_CREATE_TIME_ASC, **filters))
    assert not page.next_page_token
    return [job.id for job in page.jobs]


async def test_labels_are_told_wherever_the_job_is(running: Running) -> None:
    created = await create(running, labels=LABELS)
    await start(running)
    await complete(running)

    (listed,) = (await running.jobs.List(pb.ListRequest(labels=LABELS))).jobs
    for job in (created, await get(running), listed, *[event.job for event in await history(running)]):
        assert dict(job.labels) == LABELS


async def test_a_list_has_the_jobs_with_all_of_its_labels(running: Running) -> None:
    batch = [
        pb.CreateRequest(id="both", job_type="default", labels={"a": "1", "b": "2"}),
        pb.CreateRequest(id="one", job_type="default", labels={"a": "1"}),
        pb.CreateRequest(id="group", job_type="default", group=job_pb2.GroupPolicy(), labels={"b": "2"}),
        pb.CreateRequest(id="none", job_type="default"),
    ]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=batch))

    assert await found(running, labels={"a": "1"}) == ["both", "one"]
    assert await found(running, labels={"b": "2"}) == ["both", "group"]
    assert await found(running, labels={"b": "2", "a": "1"}) == ["both"]
    assert await found(running, labels={"a": "2"}) == await found(running, labels={"c": "1"}) == []
    assert await found(running, labels={"b": "2"}, states=[job_pb2.JOB_STATE_PROCESSING]) == ["group"]


async def test_a_repeat_with_other_labels_is_another_request(running: Running) -> None:
    request = pb.CreateRequest(id="job", job_type="default", request_id="request-1", labels={"a": "1", "b": "2"})
    await running.jobs.Create(request)

    again = pb.CreateRequest(id="job", job_type="default", request_id="request-1", labels={"b": "2", "a": "1"})
    assert dict((await running.jobs.Create(again)).job.labels) == {"a": "1", "b": "2"}
    again.labels["a"] = "2"
    assert (await refused(running.jobs.Create(again))).reason == "REQUEST_ID_REUSED"


async def test_a_page_token_belongs_to_its_labels(running: Running) -> None:
    for number in range(3):
        await create(running, f"{number}", labels={"a": "1", "b": "2"})
    token = (await running.jobs.List(pb.ListRequest(labels={"a": "1", "b": "2"}, page_size=1))).next_page_token

    same = pb.ListRequest(labels={"b": "2", "a": "1"}, page_size=1, page_token=token)
    assert [job.id for job in (await running.jobs.List(same)).jobs] == ["1"]
    other = pb.ListRequest(labels={"a": "1"}, page_token=token)
    assert (await refused(running.jobs.List(other))).metadata["field"] == "page_token"


@pytest.mark.parametrize("last", ["1", "2"])
async def test_the_last_of_equal_keys_counts(running: Running, last: str) -> None:
    # No encoder of ours writes a key twice.
    entries = b"".join(pb.CreateRequest(labels={"a": value}).SerializeToString() for value in ("0", last))
    plain = pb.CreateRequest(id=f"job-{last}", job_type="default").SerializeToString()
    call: Any = running.channel.unary_unary("/jobstate.v1.JobService/Create")

    answer = pb.CreateResponse.FromString(await call(plain + entries))

    assert dict(answer.job.labels) == {"a": last}
    assert await found(running, labels={"a": "0"}) == []


async def test_a_snapshot_has_the_jobs_with_the_labels_and_their_deletion_is_told(
    running: Running, clock: WatchedClock
) -> None:
    await create(running, "job", labels=LABELS)
    await create(running, "other")
    async with watching(running, pb.WatchEventsRequest(labels=LABELS, snapshot=True)) as watch:
        assert [job.id for job in (await watch.response()).jobs] == ["job"]
        await watch.response()
        for job_id in ("job", "other"):
            await start(running, job_id)
            await complete(running, job_id)
        clock.advance(SECOND)
        await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(0), force=True))
        events = await watch.events(3)

    assert {event.job.id for event in events} == {"job"}
    assert names(events) == ["started", "completed", "deleted"]
    assert dict(events[-1].job.labels) == LABELS


async def test_what_only_looks_like_a_label_is_none(running: Running) -> None:
    await create(running, "job", labels={"b": "1"}, metadata=struct(text=looks_like_a_label("a", "1")))
    await create(running, "other", labels={"a": "1"})

    assert [event.job.id for event in await history(running, labels={"a": "1"})] == ["other"]


async def test_a_job_that_is_recreated_has_the_labels_and_is_found_by_them(running: Running) -> None:
    await create(running, "job", labels=LABELS)
    await start(running, "job")
    await complete(running, "job")

    again = (await running.jobs.Recreate(pb.RecreateRequest(id="job"))).job

    assert dict(again.labels) == LABELS
    assert await found(running, labels=LABELS) == ["job", again.id]
