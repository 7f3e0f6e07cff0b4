"""A repeat answers for what its own call did: never with another's attempt, never with another job of the same name."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from google.protobuf.message import Message

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import HOUR, MINUTE, SECOND
from jobstate_server.maintenance.sweep import Run

from ..support.calls import (
    Refusal,
    ask,
    cancel,
    complete,
    create,
    fail,
    get,
    history,
    refused,
    retry,
    settled,
    start,
)
from ..support.clock import WatchedClock
from ..support.postgres import postgres_server
from ..support.server import Running, serving, serving_url

ID = "6f1c9f0e-52c4-4f0f-9c57-3f1f2a0d9a11"
SUPERSEDED = ("FAILED_PRECONDITION", "ATTEMPT_SUPERSEDED")
KINDS = {
    "Create": "create",
    "Start": "start",
    "Complete": "complete",
    "Fail": "fail",
    "Retry": "retry",
    "Cancel": "cancel",
}


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    async with serving_url(url, clock) as running:
        yield running


async def outcome(running: Running, rpc: str, request: Message) -> pb.UpdateOutcome:
    """What comes of the call as an update of a stream."""
    update = pb.JobUpdate()
    getattr(update, KINDS[rpc]).CopyFrom(request)
    (answer,) = [a async for a in running.jobs.StreamUpdates(iter([pb.StreamUpdatesRequest(updates=[update])]))]
    return answer.outcomes[0]


async def refusal_both_ways(running: Running, rpc: str, request: Message) -> Refusal:
    """How the call is refused, by itself and in a stream alike."""
    refusal = await refused(ask(running, rpc, request))
    streamed = (await outcome(running, rpc, request)).refusal
    assert (streamed.reason, dict(streamed.metadata)) == (refusal.reason, refusal.metadata)
    return refusal


async def let_the_attempt_time_out(running: Running, clock: WatchedClock) -> None:
    clock.advance(MINUTE)
    await settled(running)
    # A replica that has renewed its lease looks at what is due by then at once, with a timer of no length.
    clock.advance(0)
    await settled(running)
    await clock.armed(SECOND)
    clock.advance(SECOND)
    await settled(running)


@pytest.fixture
async def queued(running: Running) -> None:
    await create(running, job_type="clean_transcript")


START = pb.StartRequest(id="job", worker="w", request_id=ID)


@pytest.mark.usefixtures("queued")
async def test_a_repeated_start_is_answered_while_its_attempt_is_running(running: Running) -> None:
    first = await ask(running, "Start", START)

    assert await ask(running, "Start", START) == first
    assert (await outcome(running, "Start", START)).attempt == 1


@pytest.mark.usefixtures("queued")
async def test_a_repeated_start_never_hands_out_an_attempt_of_another_worker_not_even_of_one_with_the_same_name(
    running: Running, clock: WatchedClock
) -> None:
    await ask(running, "Start", START)
    await let_the_attempt_time_out(running, clock)
    await start(running, worker="w")

    refusal = await refusal_both_ways(running, "Start", START)

    assert refusal.brief == SUPERSEDED
    assert (refusal.metadata["attempt"], refusal.metadata["current_attempt"]) == ("1", "2")


@pytest.mark.usefixtures("queued")
async def test_a_repeated_start_does_not_claim_the_next_attempt(running: Running, clock: WatchedClock) -> None:
    await ask(running, "Start", START)
    await let_the_attempt_time_out(running, clock)

    refusal = await refusal_both_ways(running, "Start", START)

    assert refusal.brief == SUPERSEDED
    assert not (await get(running)).claimed


@pytest.mark.usefixtures("queued")
async def test_a_repeated_claim_is_answered_for_the_attempt_that_it_claimed(
    running: Running, clock: WatchedClock
) -> None:
    await start(running)
    await let_the_attempt_time_out(running, clock)
    claimed = await ask(running, "Start", START)

    assert claimed.job.attempt == 2
    assert await ask(running, "Start", START) == claimed


@pytest.mark.usefixtures("queued")
async def test_a_repeated_start_of_an_attempt_that_failed_is_refused_while_the_job_waits(running: Running) -> None:
    await ask(running, "Start", START)
    await fail(running)

    refusal = await refusal_both_ways(running, "Start", START)

    assert refusal.brief == SUPERSEDED
    assert refusal.metadata["state"] == "RETRYING"


@pytest.mark.usefixtures("queued")
@pytest.mark.parametrize("end", [cancel, complete])
async def test_a_repeated_start_of_a_final_job_is_refused_as_a_report_would_be(running: Running, end: object) -> None:
    await ask(running, "Start", START)
    await end(running)  # type: ignore[operator]

    refusal = await refusal_both_ways(running, "Start", START)

    assert refusal.brief == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")
    assert refusal.metadata["trigger"] == "start"


async def test_a_start_and_its_repeat_in_one_batch_are_one(running: Running) -> None:
    create_it = pb.JobUpdate(create=pb.CreateRequest(id="job", job_type="default", request_id="create-it"))
    start_it = pb.JobUpdate(start=START)
    updates = [create_it, start_it, start_it, create_it]
    (answer,) = [a async for a in running.jobs.StreamUpdates(iter([pb.StreamUpdatesRequest(updates=updates)]))]

    assert [(found.version, found.attempt) for found in answer.outcomes] == [(1, 0), (2, 1), (2, 1), (2, 1)]


# The job is gone.

CALLS: dict[str, Message] = {
    "Create": pb.CreateRequest(id="job", job_type="default", request_id=ID),
    "Start": START,
    "Complete": pb.CompleteRequest(id="job", request_id=ID),
    "Fail": pb.FailRequest(id="job", retryable=False, request_id=ID),
    "Retry": pb.RetryRequest(id="job", request_id=ID),
    "Cancel": pb.CancelRequest(id="job", request_id=ID),
}


async def make(running: Running, rpc: str) -> None:
    """Make the call on a fresh job, and let the job end."""
    if rpc != "Create":
        await create(running)
    if rpc in ("Complete", "Fail", "Retry"):
        await start(running)
    if rpc == "Retry":
        await fail(running)
    await ask(running, rpc, CALLS[rpc])
    if not (await get(running)).HasField("complete_time"):
        await cancel(running)


async def delete_all(running: Running, clock: WatchedClock) -> None:
    clock.advance(2 * HOUR)
    assert (await running.server.tasks.cleanup.run_once(Run(), older_than=HOUR)).count


def gone(job_id: str = "job") -> tuple[tuple[str, str], dict[str, str]]:
    return ("NOT_FOUND", "JOB_NOT_FOUND"), {"job_id": job_id, "deleted": "true"}


@pytest.mark.parametrize("rpc", CALLS)
async def test_a_repeat_for_a_deleted_job_says_so_and_makes_nothing(
    running: Running, clock: WatchedClock, rpc: str
) -> None:
    await make(running, rpc)
    await delete_all(running, clock)
    before = await history(running)

    refusal = await refusal_both_ways(running, rpc, CALLS[rpc])

    assert (refusal.brief, refusal.metadata) == gone()
    assert await history(running) == before


@pytest.mark.parametrize("rpc", CALLS)
async def test_a_repeat_is_never_answered_with_a_later_job_of_the_same_name(
    running: Running, clock: WatchedClock, rpc: str
) -> None:
    await make(running, rpc)
    await delete_all(running, clock)
    other = await create(running)

    refusal = await refusal_both_ways(running, rpc, CALLS[rpc])

    assert (refusal.brief, refusal.metadata) == gone()
    assert await get(running) == other


async def test_a_repeat_finds_its_own_job_that_has_the_name_of_a_deleted_one(
    running: Running, clock: WatchedClock
) -> None:
    await create(running, request_id="the-first-create")
    await cancel(running)
    await delete_all(running, clock)
    second = await create(running, request_id="the-second-create")

    assert await create(running, request_id="the-second-create") == second
    assert (await refused(create(running, request_id="the-first-create"))).metadata["deleted"] == "true"


async def test_a_repeat_is_known_by_its_job_after_a_restart(url: str, clock: WatchedClock) -> None:
    async with serving_url(url, clock) as running:
        await make(running, "Create")
        await delete_all(running, clock)
        other = await create(running, request_id="another-create")
    async with serving_url(url, clock) as running:
        refusal = await refused(ask(running, "Create", CALLS["Create"]))

        assert (refusal.brief, refusal.metadata) == gone()
        assert await create(running, request_id="another-create") == other


async def test_a_repeated_batch_of_which_a_job_was_deleted_is_refused_whole(
    running: Running, clock: WatchedClock
) -> None:
    items = [pb.CreateRequest(job_type="default", request_id=f"request-{number}") for number in range(3)]
    made = await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
    await cancel(running, made.jobs[1].id)
    await delete_all(running, clock)
    before = await history(running)

    refusal = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))

    assert (refusal.brief, refusal.metadata) == gone(made.jobs[1].id)
    assert await history(running) == before


async def test_a_job_that_never_was_is_not_called_deleted(running: Running) -> None:
    assert (await refused(start(running, request_id=ID))).metadata == {"job_id": "job"}
    assert (await refused(retry(running))).metadata == {"job_id": "job"}


# As many as there may be.


@pytest.fixture
async def small(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server that keeps 1,000 request ids."""
    async with serving_url(url, clock, request_ids_max=1_000) as running:
        yield running


async def use_request_ids(running: Running, prefix: str, count: int = 1_000) -> None:
    items = [pb.CreateRequest(job_type="default", request_id=f"{prefix}-{number:04}") for number in range(count)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))


async def test_with_too_many_young_request_ids_a_new_one_is_refused_and_everything_else_goes_on(
    small: Running, clock: WatchedClock
) -> None:
    first = await create(small, request_id="the-very-first")
    await use_request_ids(small, "young", 999)
    clock.advance(HOUR)

    refusal = await refused(create(small, "new", request_id="one-too-many"))
    streamed = await outcome(small, "Cancel", pb.CancelRequest(id="job", request_id="one-too-many"))

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert "request_ids_max" in refusal.message
    assert streamed.refusal.reason == "OVERLOADED"
    assert await create(small, request_id="the-very-first") == first
    assert (await create(small, "without")).state == job_pb2.JOB_STATE_QUEUED
    assert (await refused(get(small, "new"))).reason == "JOB_NOT_FOUND"


async def test_the_oldest_request_ids_make_room_once_they_are_an_hour_old(small: Running, clock: WatchedClock) -> None:
    await use_request_ids(small, "older", 500)
    clock.advance(HOUR)
    await use_request_ids(small, "later", 500)
    clock.advance(1)

    await create(small, "new", request_id="there-is-room")

    items = [pb.CreateRequest(job_type="default", request_id="later-0000")]
    assert len((await small.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))).jobs) == 1
    assert small.server.committer.requests_surplus <= 0
    # The first was forgotten, so it is a new call.
    assert (await create(small, "", request_id="older-0000")).version > 1_001


async def test_evict_inactive_forgets_what_is_too_many_but_nothing_young(url: str, clock: WatchedClock) -> None:
    async with serving_url(url, clock) as running:
        await use_request_ids(running, "older")
        clock.advance(HOUR)
        await use_request_ids(running, "later", 500)
        clock.advance(1)
    async with serving_url(url, clock, request_ids_max=1_000) as running:
        assert running.server.committer.requests_surplus == 500
        assert (await running.server.tasks.evict_inactive.run_once()).requests == 500
        assert running.server.committer.requests_surplus == 0
        assert (await running.server.tasks.evict_inactive.run_once()).requests == 0


async def test_all_replicas_count_the_request_ids_together(clock: WatchedClock) -> None:
    url = postgres_server().new_store()
    async with (
        serving_url(url, clock, request_ids_max=1_000) as one,
        serving_url(url, clock, request_ids_max=1_000) as other,
    ):
        await use_request_ids(one, "one", 600)
        await use_request_ids(other, "other", 400)

        assert other.server.committer.requests_surplus == 0
        assert (await refused(create(other, request_id="one-too-many"))).reason == "OVERLOADED"


# What an older program wrote.


async def test_what_an_older_program_stored_is_answered_by_attempt_and_time(path: Path, clock: WatchedClock) -> None:
    async with serving(path, clock) as running:
        await create(running, "kept", "clean_transcript", request_id="create-kept")
        await make(running, "Create")
        await delete_all(running, clock)
        await create(running)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE request SET create_sequence = NULL, attempt = 1")
        database.execute("UPDATE job SET create_sequence = -create_sequence")
    async with serving(path, clock) as running:
        assert (await create(running, "kept", "clean_transcript", request_id="create-kept")).id == "kept"
        refusal = await refused(ask(running, "Create", CALLS["Create"]))
        assert (refusal.brief, refusal.metadata) == gone()


async def test_a_start_that_an_older_program_stored_is_never_answered_with_a_later_attempt(
    path: Path, clock: WatchedClock
) -> None:
    async with serving(path, clock) as running:
        await create(running, job_type="clean_transcript")
        await ask(running, "Start", START)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE request SET create_sequence = NULL, attempt = 1")
    async with serving(path, clock) as running:
        assert (await ask(running, "Start", START)).job.attempt == 1
        await fail(running)
        await retry(running, immediately=True)
        await start(running, worker="w")

        assert (await refused(ask(running, "Start", START))).brief == SUPERSEDED
