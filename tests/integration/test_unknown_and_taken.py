"""A job or job type that is not known, and an id or request id that is taken, is refused; and nothing is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import ask, complete, create, refused, start
from ..support.server import Running, rows, serving
from .support import JOB_RPCS, on_shared


@pytest.mark.parametrize("rpc", JOB_RPCS)
@on_shared
async def test_an_unknown_job_is_not_found(stored: Running, rpc: str) -> None:
    refusal = await refused(ask(stored, rpc, JOB_RPCS[rpc](id="nobody")))

    assert refusal.brief == ("NOT_FOUND", "JOB_NOT_FOUND")
    assert refusal.metadata == {"job_id": "nobody"}
    resource = refusal.detail(error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("jobstate.v1.Job", "nobody")


@on_shared
async def test_watching_an_unknown_job_until_it_is_final_is_refused(stored: Running) -> None:
    request = pb.WatchEventsRequest(job_ids=["job", "nobody"], until_final=True)

    refusal = await refused(ask(stored, "WatchEvents", request))

    assert refusal.brief == ("NOT_FOUND", "JOB_NOT_FOUND")
    assert refusal.metadata == {"job_id": "nobody"}


@on_shared
async def test_an_id_that_a_job_has_is_taken(stored: Running) -> None:
    refusal = await refused(create(stored, "job"))

    assert refusal.brief == ("ALREADY_EXISTS", "JOB_EXISTS")
    assert refusal.metadata == {"job_id": "job"}
    assert refusal.detail(error_details_pb2.ResourceInfo).resource_name == "job"


@pytest.mark.parametrize("ids", [("new", "job"), ("new", "new")], ids=["of a stored job", "of the same batch"])
@on_shared
async def test_an_id_that_is_taken_refuses_the_whole_batch(stored: Running, ids: tuple[str, str]) -> None:
    items = [pb.CreateRequest(id=job_id, job_type="default") for job_id in ids]

    refusal = await refused(stored.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))

    assert refusal.brief == ("ALREADY_EXISTS", "JOB_EXISTS")
    assert refusal.metadata == {"job_id": ids[1]}


async def test_an_unnamed_job_type_is_unknown_where_types_are_strict(path: Path) -> None:
    async with serving(path, strict_job_types=True) as running:
        refusal = await refused(create(running, job_type="clean_transcipt"))
        items = [pb.CreateRequest(job_type="default"), pb.CreateRequest(job_type="clean_transcipt")]
        of_batch = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))

        assert refusal.brief == of_batch.brief == ("INVALID_ARGUMENT", "UNKNOWN_JOB_TYPE")
        assert refusal.metadata == {"job_type": "clean_transcipt", "field": "job_type"}
        assert of_batch.metadata == {"job_type": "clean_transcipt", "field": "requests[1].job_type"}
        assert refusal.fields == ["job_type"]
        assert rows(path)["job"] == []


async def test_a_server_made_strict_takes_no_new_job_of_a_type_that_it_took_before_and_finishes_the_old_ones(
    path: Path,
) -> None:
    async with serving(path) as running:
        await create(running, "old", "unnamed", request_id="first-one")
    async with serving(path, strict_job_types=True) as running:
        refusal = await refused(create(running, "new", "unnamed"))
        assert refusal.brief == ("INVALID_ARGUMENT", "UNKNOWN_JOB_TYPE")
        # What was created is answered again, and goes on.
        assert (await create(running, "old", "unnamed", request_id="first-one")).id == "old"
        await start(running, "old")
        assert (await complete(running, "old")).state == job_pb2.JOB_STATE_COMPLETED


async def test_types_that_came_to_be_are_counted_after_a_restart_and_stay_welcome(path: Path) -> None:
    async with serving(path, max_job_types=2) as running:
        await create(running, "1", "one")
    async with serving(path, max_job_types=2) as running:
        await create(running, "2", "two")
        refusal = await refused(create(running, "3", "three"))
        assert refusal.brief == ("INVALID_ARGUMENT", "UNKNOWN_JOB_TYPE")
        assert (await create(running, "4", "one")).job_type == "one"


async def test_one_unnamed_job_type_too_many_is_unknown(path: Path) -> None:
    async with serving(path, max_job_types=2) as running:
        await create(running, "1", "one")
        items = [pb.CreateRequest(job_type=job_type) for job_type in ("one", "two", "three")]
        of_batch = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))
        await create(running, "2", "two")
        refusal = await refused(create(running, "3", "three"))

        assert of_batch.brief == refusal.brief == ("INVALID_ARGUMENT", "UNKNOWN_JOB_TYPE")
        assert refusal.metadata == {"job_type": "three", "field": "job_type"}
        assert of_batch.metadata == {"job_type": "three", "field": "requests[2].job_type"}
        assert (await create(running, "4", "two")).job_type == "two"
        assert len(rows(path)["job"]) == 3


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("Create", pb.CreateRequest(job_type="other", request_id="request-1")),
        ("Cancel", pb.CancelRequest(id="job", request_id="request-1")),
        ("Cancel", pb.CancelRequest(id="nobody", request_id="request-1")),
        ("BatchCreate", pb.BatchCreateRequest(requests=[pb.CreateRequest(job_type="x", request_id="request-1")])),
    ],
    ids=["other content", "another call", "another job that does not even exist", "a batch"],
)
async def test_a_request_id_is_not_used_for_something_else(running: Running, rpc: str, request_: Message) -> None:
    await create(running, request_id="request-1")
    before = rows(running.path)

    refusal = await refused(ask(running, rpc, request_))

    assert refusal.brief == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert refusal.metadata == {"request_id": "request-1"}
    assert rows(running.path) == before
