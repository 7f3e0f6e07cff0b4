"""Erase by label: which jobs have the labels, and that nothing else is touched."""

from __future__ import annotations

import asyncio

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.store.erasing import EVENTS_SEARCHED_MAX

from ..support.calls import cancel, create, get, history, refused, span, struct
from ..support.postgres import postgres_server
from ..support.server import Running, serving_url
from .erasing import LABELS, SECRET, erase, stored_text
from .relating import create_group
from .support import looks_like_a_label

OURS = {"tenant": "acme", "customer": "12"}


async def ended(running: Running, **jobs: dict[str, str]) -> None:
    """Cancelled jobs with these labels."""
    for job_id, labels in jobs.items():
        await create(running, job_id, labels=labels)
        await cancel(running, job_id)


async def left(running: Running) -> list[str]:
    """The jobs that are stored."""
    page = await running.jobs.List(pb.ListRequest(order=pb.LIST_ORDER_CREATE_TIME_ASC))
    return [job.id for job in page.jobs]


async def test_only_jobs_with_all_of_the_labels_are_erased(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {
        "tenant": {"tenant": "acme"},
        "other": {"tenant": "else", "customer": "12"},
        "both": OURS,
        "more": {**OURS, "env": ""},
        "longer": {"tenant": "acme", "customer": "123"},
        "case": {"tenant": "acme", "Customer": "12"},
        "none": {},
    }
    async with serving_url(url) as running:
        await ended(running, **jobs)

        with monkeypatch.context() as small:
            # So that there are pages without a job that has all of them.
            small.setattr("jobstate_server.store.reading.job_pages.ENTRIES_SCANNED_MAX", 1)
            done = await erase(running, labels=OURS)

        assert (done.jobs, done.events) == (2, 4)
        assert await left(running) == ["tenant", "other", "longer", "case", "none"]
        assert [event.job.id for event in await history(running) if event.erased] == ["both"] * 2 + ["more"] * 2 + [
            "both",
            "more",
        ]


async def test_an_empty_value_is_a_value_and_what_looks_like_a_label_is_none(url: str) -> None:
    async with serving_url(url) as running:
        await ended(running, empty={"customer": ""}, full={"customer": "1"})
        await create(running, "told", metadata=struct(text=looks_like_a_label("customer", "12")))
        await cancel(running, "told", reason=looks_like_a_label("customer", "12"))
        await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(0), force=True))

        unknown = await erase(running, labels={"customer": "12"})
        empty = await erase(running, labels={"customer": ""})

        assert unknown == mpb.EraseResponse()
        assert (empty.jobs, empty.events) == (0, 3)
        assert [event.job.id for event in await history(running) if event.erased] == ["empty"] * 3


async def test_a_group_is_erased_by_its_own_labels_and_its_members_by_theirs(running: Running) -> None:
    await create_group(running, "group", labels=LABELS)
    await create(running, "ours", group_id="group", labels=LABELS)
    await create(running, "plain", group_id="group")
    for job_id in ("ours", "plain"):
        await cancel(running, job_id)
    kept = await erase(running, labels=LABELS)
    await cancel(running, "group")

    done = await erase(running, labels=LABELS)

    assert (kept.jobs, kept.unfinished, list(kept.unfinished_job_ids)) == (0, 2, ["group", "ours"])
    assert (done.jobs, done.unfinished) == (2, 0)
    assert await left(running) == ["plain"]


async def test_a_job_that_was_made_from_one_with_the_label_has_it_too(running: Running) -> None:
    await ended(running, old=LABELS)
    new = (await running.jobs.Recreate(pb.RecreateRequest(id="old"))).job

    done = await erase(running, labels=LABELS)

    assert (done.jobs, list(done.unfinished_job_ids)) == (1, [new.id])
    await cancel(running, new.id)
    assert (await erase(running, labels=LABELS)).jobs == 1


async def test_a_new_job_with_the_id_of_one_that_had_the_label_is_not_touched(url: str) -> None:
    async with serving_url(url) as running:
        await ended(running, one=LABELS)
        await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(0), force=True))
        await create(running, "one", labels=OURS, metadata=struct(text="kept"))
        before = await get(running, "one")

        done = await erase(running, labels=LABELS)

        assert (done.jobs, done.events, done.unfinished) == (0, 3, 0)
        assert await get(running, "one") == before
        assert [event.erased for event in await history(running)] == [True, True, True, False]


async def test_events_are_found_in_a_log_of_many_pages(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobstate_server.store.reading.erasing.EVENTS_SEARCHED_MAX", 7)
    monkeypatch.setattr("jobstate_server.engine.erasing.EVENTS_AT_ONCE", 3)
    assert EVENTS_SEARCHED_MAX > 7
    async with serving_url(url) as running:
        for number in range(15):
            labels = LABELS if number % 5 == 0 or number > 10 else {}
            await ended(running, **{f"job-{number}": labels})

        done = await erase(running, labels=LABELS)

        assert (done.jobs, done.events) == (7, 14)
        assert SECRET not in stored_text(url)
        assert sum(event.erased for event in await history(running)) == 3 * 7


async def test_two_servers_at_once_erase_each_job_once() -> None:
    url = postgres_server().new_store()
    async with serving_url(url) as one, serving_url(url) as two:
        requests = [pb.CreateRequest(id=f"job-{number}", job_type="default", labels=LABELS) for number in range(200)]
        await one.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))
        await one.jobs.CancelMany(pb.CancelManyRequest(all=True, request_id="cancel-everything"))

        both = await asyncio.gather(erase(one, labels=LABELS), erase(two, labels=LABELS))

        assert sum(done.jobs for done in both) == 200
        assert sum(done.events for done in both) == 400
        assert [done.unfinished for done in both] == [0, 0]
        assert "confidential" not in stored_text(url)
        assert (await refused(get(two, "job-7"))).reason == "JOB_NOT_FOUND"
