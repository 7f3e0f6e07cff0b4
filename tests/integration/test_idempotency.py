"""A call whose answer was lost is repeated with its request_id: it returns the job as it now is, and acts only once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.message import Message

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import HOUR, MINUTE, SECOND
from jobstate_server.maintenance.sweep import Run

from ..support.calls import (
    ask,
    cancel,
    create,
    fail,
    get,
    history,
    names,
    refused,
    report,
    retry,
    settled,
    start,
    struct,
)
from ..support.clock import WatchedClock
from ..support.server import RESTING, Client, Running, rows, serving

ID = "6f1c9f0e-52c4-4f0f-9c57-3f1f2a0d9a11"


async def let_the_wait_pass(running: Running, clock: WatchedClock) -> None:
    """The retry's wait of 1 s ends: the server resumes the job."""
    clock.advance(SECOND)
    await settled(running)


async def let_the_attempt_time_out(running: Running, clock: WatchedClock) -> None:
    """The attempt's timeout passes, and then the wait before the next."""
    clock.advance(MINUTE)
    await settled(running)
    await clock.armed(SECOND)
    await let_the_wait_pass(running, clock)


async def let_others_work(running: Running, clock: WatchedClock) -> None:
    """Somebody starts the job, and the server fails and resumes it."""
    await start(running)
    await let_the_attempt_time_out(running, clock)


async def let_the_worker_report(running: Running, clock: WatchedClock) -> None:
    """The attempt goes on."""
    clock.advance(SECOND)
    await report(running, attempt=1, progress=50)


async def let_an_hour_pass(running: Running, clock: WatchedClock) -> None:
    """Nothing more happens to a final job."""
    clock.advance(HOUR)
    await settled(running)


@dataclass(frozen=True)
class Lost:
    """A call whose answer is lost, and what happens until it is repeated."""

    rpc: str
    request: Message
    changed: Message
    """The same request_id, with other content."""
    before: tuple[Callable[[Client], Awaitable[object]], ...]
    meanwhile: Callable[[Running, WatchedClock], Awaitable[None]]
    state: job_pb2.JobState.ValueType
    """Of the job when the call is repeated."""
    job_type: str = "clean_transcript"


PROCESSING = job_pb2.JOB_STATE_PROCESSING

LOST = {
    "Create": Lost(
        "Create",
        pb.CreateRequest(id="job", job_type="clean_transcript", metadata=struct(b=1, a=2), request_id=ID),
        pb.CreateRequest(id="job", job_type="clean_transcript", metadata=struct(b=1, a=3), request_id=ID),
        (),
        let_others_work,
        PROCESSING,
    ),
    "Start": Lost(
        "Start",
        pb.StartRequest(id="job", worker="me", request_id=ID),
        pb.StartRequest(id="job", worker="you", request_id=ID),
        (),
        let_the_worker_report,
        PROCESSING,
    ),
    "Fail": Lost(
        "Fail",
        pb.FailRequest(id="job", error=pb.FailureReport(code="X"), attempt=1, request_id=ID),
        pb.FailRequest(id="job", error=pb.FailureReport(code="Y"), attempt=1, request_id=ID),
        (start,),
        let_the_wait_pass,
        PROCESSING,
    ),
    "Retry": Lost(
        "Retry",
        pb.RetryRequest(id="job", request_id=ID),
        pb.RetryRequest(id="job", immediately=True, request_id=ID),
        (start, fail),
        let_the_wait_pass,
        PROCESSING,
        RESTING,
    ),
    "Retry of a waiting job": Lost(
        "Retry",
        pb.RetryRequest(id="job", request_id=ID),
        pb.RetryRequest(id="other", request_id=ID),
        (start, fail),
        let_the_wait_pass,
        PROCESSING,
    ),
    "Retry immediately": Lost(
        "Retry",
        pb.RetryRequest(id="job", immediately=True, request_id=ID),
        pb.RetryRequest(id="job", request_id=ID),
        (start, fail),
        let_an_hour_pass,
        PROCESSING,
    ),
    "Complete": Lost(
        "Complete",
        pb.CompleteRequest(id="job", result=struct(ok=True), request_id=ID),
        pb.CompleteRequest(id="job", result=struct(ok=False), request_id=ID),
        (start,),
        let_an_hour_pass,
        job_pb2.JOB_STATE_COMPLETED,
    ),
    "Cancel": Lost(
        "Cancel",
        pb.CancelRequest(id="job", reason="enough", request_id=ID),
        pb.CancelRequest(id="job", reason="too much", request_id=ID),
        (start,),
        let_an_hour_pass,
        job_pb2.JOB_STATE_CANCELLED,
    ),
}


async def prepare(running: Running, lost: Lost) -> None:
    """Bring the job to where the lost call is made."""
    if lost.rpc != "Create":
        await create(running, "job", lost.job_type)
    for step in lost.before:
        await step(running)


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_a_repeated_call_returns_the_job_as_it_now_is_and_nothing_happens_twice(
    running: Running, clock: WatchedClock, lost: Lost
) -> None:
    await prepare(running, lost)
    await ask(running, lost.rpc, lost.request)
    await lost.meanwhile(running, clock)
    job = await get(running)
    assert job.state == lost.state
    before = rows(running.path)

    answers = [await ask(running, lost.rpc, lost.request) for _ in range(2)]

    assert [answer.job for answer in answers] == [job, job]
    assert rows(running.path) == before


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_a_call_with_the_request_id_of_another_is_refused_and_changes_nothing(
    running: Running, clock: WatchedClock, lost: Lost
) -> None:
    await prepare(running, lost)
    await ask(running, lost.rpc, lost.request)
    await lost.meanwhile(running, clock)
    before = rows(running.path)
    of_another_call = pb.StartRequest if lost.rpc != "Start" else pb.CancelRequest

    refusals = [
        await refused(ask(running, lost.rpc, lost.changed)),
        await refused(ask(running, of_another_call.DESCRIPTOR.name[:-7], of_another_call(id="job", request_id=ID))),
        await refused(create(running, "new", request_id=ID)),
    ]

    for refusal in refusals:
        assert refusal.brief == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert refusal.metadata == {"request_id": ID}
    assert rows(running.path) == before


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_a_call_is_known_again_after_a_restart(path: Path, clock: WatchedClock, lost: Lost) -> None:
    async with serving(path, clock) as running:
        await prepare(running, lost)
        await ask(running, lost.rpc, lost.request)
        await lost.meanwhile(running, clock)
        job = await get(running)

    async with serving(path, clock) as running:
        answer = await ask(running, lost.rpc, lost.request)
        refusal = await refused(ask(running, lost.rpc, lost.changed))

    assert answer.job == job
    assert refusal.reason == "REQUEST_ID_REUSED"


async def test_two_of_the_same_call_at_once_make_one_job(running: Running) -> None:
    both = await asyncio.gather(create(running, "", request_id=ID), create(running, "", request_id=ID))

    assert both[0] == both[1]
    assert names(await history(running)) == ["queued"]


async def test_a_refused_call_does_not_use_its_request_id_up(running: Running) -> None:
    await refused(start(running, request_id=ID))
    await create(running)

    assert (await start(running, request_id=ID)).state == PROCESSING


async def test_a_repeat_of_a_create_that_left_the_id_to_the_server_finds_its_job(running: Running) -> None:
    job = await create(running, "", request_id=ID)
    await start(running, job.id)

    repeated = await create(running, "", request_id=ID)

    assert repeated.id == job.id
    assert repeated.state == PROCESSING


# BatchCreate.


def batch(*numbers: int, job_type: str = "default") -> pb.BatchCreateRequest:
    """A batch of creates, each with a request_id of its own."""
    items = [pb.CreateRequest(job_type=job_type, request_id=f"request-{number}") for number in numbers]
    return pb.BatchCreateRequest(requests=items)


async def test_a_repeated_batch_returns_its_jobs_as_they_now_are(running: Running) -> None:
    first = await running.jobs.BatchCreate(batch(1, 2, 3))
    moved = await start(running, first.jobs[1].id)
    before = rows(running.path)

    repeated = await running.jobs.BatchCreate(batch(1, 2, 3))

    assert [job.id for job in repeated.jobs] == [job.id for job in first.jobs]
    assert [job.version for job in repeated.jobs] == [first.jobs[0].version, moved.version, first.jobs[2].version]
    assert rows(running.path) == before


async def test_any_batch_of_nothing_but_repeats_returns_them(running: Running) -> None:
    first = await running.jobs.BatchCreate(batch(1, 2, 3))

    repeated = await running.jobs.BatchCreate(batch(3, 1))

    assert [job.id for job in repeated.jobs] == [first.jobs[2].id, first.jobs[0].id]


MIXTURES = {
    "a repeat and a new one": batch(1, 4),
    "a new one and a repeat": batch(4, 1),
    "a repeat and one without request_id": pb.BatchCreateRequest(
        requests=[pb.CreateRequest(job_type="default", request_id="request-1"), pb.CreateRequest(job_type="default")]
    ),
    "a repeat with other content": batch(1, job_type="other"),
}


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
async def test_a_batch_that_mixes_repeats_with_anything_else_is_refused_whole(
    running: Running, mixture: pb.BatchCreateRequest
) -> None:
    await running.jobs.BatchCreate(batch(1, 2, 3))
    before = rows(running.path)

    refusal = await refused(running.jobs.BatchCreate(mixture))

    assert refusal.brief == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert refusal.metadata == {"request_id": "request-1"}
    assert rows(running.path) == before


async def test_a_batch_that_uses_a_request_id_twice_is_refused_whole(running: Running) -> None:
    refusal = await refused(running.jobs.BatchCreate(batch(1, 2, 1)))

    assert refusal.metadata == {"request_id": "request-1"}
    assert await history(running) == []


# How long it is remembered.


async def test_a_request_id_is_remembered_for_24_hours_and_then_forgotten(
    running: Running, clock: WatchedClock
) -> None:
    first = await create(running, request_id=ID)
    clock.advance(24 * HOUR)
    assert (await running.server.tasks.evict_inactive.run_once()).requests == 0
    assert await create(running, request_id=ID) == first

    clock.advance(1)
    assert (await running.server.tasks.evict_inactive.run_once()).requests == 1

    refusal = await refused(create(running, request_id=ID))
    assert refusal.reason == "JOB_EXISTS"
    assert (await cancel(running, request_id=ID)).state == job_pb2.JOB_STATE_CANCELLED


async def test_a_repeat_for_a_job_that_cleanup_has_deleted_does_not_make_it_anew(
    running: Running, clock: WatchedClock
) -> None:
    await create(running, request_id=ID)
    await cancel(running)
    clock.advance(2 * HOUR)
    report = await running.server.tasks.cleanup.run_once(Run(), older_than=HOUR)
    assert report.count == 1

    refusal = await refused(create(running, request_id=ID))

    assert refusal.brief == ("NOT_FOUND", "JOB_NOT_FOUND")
    assert refusal.metadata == {"job_id": "job", "deleted": "true"}


async def test_retry_immediately_without_request_id_is_refused_when_repeated(running: Running) -> None:
    await create(running)
    await start(running)
    await fail(running)
    await retry(running, immediately=True)

    refusal = await refused(retry(running, immediately=True))

    assert refusal.reason == "TRANSITION_NOT_ALLOWED"
