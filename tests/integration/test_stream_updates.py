"""StreamUpdates does what the unary calls do, many at a time, and answers in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.engine import write_queue

from ..support.calls import refusal_of, refused
from ..support.server import Client, Running, client_of, serving

ATTEMPT_1 = 1


def create(job_id: str, request_id: str = "") -> pb.JobUpdate:
    return pb.JobUpdate(create=pb.CreateRequest(id=job_id, job_type="clean_transcript", request_id=request_id))


def start(job_id: str, request_id: str = "") -> pb.JobUpdate:
    return pb.JobUpdate(start=pb.StartRequest(id=job_id, worker="w", request_id=request_id))


def progress(job_id: str, percent: int, attempt: int = ATTEMPT_1) -> pb.JobUpdate:
    return pb.JobUpdate(progress=pb.UpdateProgressRequest(id=job_id, progress=percent, attempt=attempt))


def complete(job_id: str) -> pb.JobUpdate:
    return pb.JobUpdate(complete=pb.CompleteRequest(id=job_id, attempt=ATTEMPT_1, result_count=1))


async def sent(client: Client, batches: Iterable[list[pb.JobUpdate]]) -> list[pb.StreamUpdatesResponse]:
    """All answers to these batches, numbered from 1, sent over one stream without waiting in between."""
    requests = [pb.StreamUpdatesRequest(batch=number, updates=updates) for number, updates in enumerate(batches, 1)]
    return [answer async for answer in client.jobs.StreamUpdates(iter(requests))]


async def outcomes(client: Client, *updates: pb.JobUpdate) -> list[pb.UpdateOutcome]:
    (answer,) = await sent(client, [list(updates)])
    return list(answer.outcomes)


async def test_a_whole_life_in_one_batch_sees_each_step_before_it(running: Running) -> None:
    job_id = "life"
    found = await outcomes(
        running, create(job_id), start(job_id), progress(job_id, 30), progress(job_id, 60), complete(job_id)
    )

    assert [outcome.version for outcome in found] == [1, 2, 3, 4, 5]
    assert [outcome.state for outcome in found][-2:] == [job_pb2.JOB_STATE_PROCESSING, job_pb2.JOB_STATE_COMPLETED]
    assert {outcome.id for outcome in found} == {job_id}
    job = (await running.jobs.Get(pb.GetRequest(id=job_id))).job
    assert (job.state, job.version, job.progress) == (job_pb2.JOB_STATE_COMPLETED, 5, 100)


async def test_batches_are_answered_in_order_with_their_numbers(running: Running) -> None:
    batches = [[create(f"job-{number}"), start(f"job-{number}")] for number in range(50)]

    answers = await sent(running, batches)

    assert [answer.batch for answer in answers] == list(range(1, 51))
    assert [[outcome.id for outcome in answer.outcomes] for answer in answers] == [
        [f"job-{number}"] * 2 for number in range(50)
    ]


async def test_many_batches_share_a_commit(running: Running) -> None:
    before = running.server.committer.counters.commits

    await sent(running, [[create(f"job-{number}")] for number in range(200)])

    assert running.server.committer.counters.commits - before < 100


async def test_a_refused_update_breaks_neither_its_batch_nor_the_stream(running: Running) -> None:
    first, second = await sent(
        running,
        [
            [create("a"), progress("a", 10), progress("nobody", 10), start("a"), progress("a", 101), progress("a", 50)],
            [progress("a", 70)],
        ],
    )

    reasons = [outcome.refusal.reason for outcome in first.outcomes]
    assert reasons == ["", "ATTEMPT_SUPERSEDED", "JOB_NOT_FOUND", "", "INVALID_FIELD", ""]
    assert [outcome.id for outcome in first.outcomes] == ["a", "a", "nobody", "a", "a", "a"]
    assert not second.outcomes[0].HasField("refusal")
    assert second.outcomes[0].version == 4


async def test_a_refusal_says_what_the_unary_call_would(running: Running) -> None:
    (outcome,) = await outcomes(running, start("nobody"))
    unary = await refused(running.jobs.Start(pb.StartRequest(id="nobody", worker="w")))

    refusal = outcome.refusal
    assert refusal.code == unary.code.value[0]
    assert (refusal.reason, refusal.message, dict(refusal.metadata)) == (unary.reason, unary.message, unary.metadata)
    assert (outcome.version, outcome.attempt, outcome.state) == (0, 0, 0)


async def test_an_update_that_is_none_is_refused(running: Running) -> None:
    (outcome,) = await outcomes(running, pb.JobUpdate())

    assert (outcome.refusal.reason, outcome.refusal.metadata["field"]) == ("INVALID_FIELD", "update")


async def test_an_empty_batch_is_answered(running: Running) -> None:
    (answer,) = await sent(running, [[]])

    assert (answer.batch, len(answer.outcomes)) == (1, 0)


async def test_a_repeat_with_the_request_id_of_a_unary_call_does_nothing_twice(running: Running) -> None:
    await running.jobs.Create(pb.CreateRequest(id="a", job_type="clean_transcript", request_id="create-a"))

    again, other = await outcomes(
        running,
        create("a", request_id="create-a"),
        pb.JobUpdate(create=pb.CreateRequest(id="a", job_type="generate_posts", request_id="create-a")),
    )

    assert (again.id, again.version) == ("a", 1)
    assert other.refusal.reason == "REQUEST_ID_REUSED"


async def test_every_kind_of_update_does_what_its_call_does(running: Running) -> None:
    fail = pb.FailRequest(id="a", attempt=1, error=pb.FailureReport(code="E"))
    found = await outcomes(
        running,
        create("a"),
        start("a"),
        pb.JobUpdate(fail=fail),
        pb.JobUpdate(retry=pb.RetryRequest(id="a", immediately=True)),
        start("a"),
        pb.JobUpdate(cancel=pb.CancelRequest(id="a", reason="enough")),
    )

    assert [job_pb2.JobState.Name(outcome.state).removeprefix("JOB_STATE_") for outcome in found] == [
        "QUEUED",
        "PROCESSING",
        "RETRYING",
        "PROCESSING",
        "PROCESSING",
        "CANCELLED",
    ]
    assert [outcome.attempt for outcome in found] == [0, 1, 1, 2, 2, 2]


async def test_a_batch_that_is_too_large_ends_the_stream_after_the_answers_before_it(running: Running) -> None:
    requests = [
        pb.StreamUpdatesRequest(batch=1, updates=[create("a")]),
        pb.StreamUpdatesRequest(batch=2, updates=[create(f"b-{number}") for number in range(1_001)]),
    ]
    call = running.jobs.StreamUpdates(iter(requests))

    answer = await anext(aiter(call))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(call))

    assert answer.batch == 1
    refusal = refusal_of(caught.value)
    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.fields == ["updates"]


async def test_a_full_queue_makes_the_stream_wait_and_loses_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_queue, "QUEUE_ROWS_MAX", 200)
    batches = [[create(f"job-{batch}-{number}") for number in range(90)] for batch in range(20)]

    answers = await sent(running, batches)

    assert sum(not outcome.HasField("refusal") for answer in answers for outcome in answer.outcomes) == 1_800
    stats = await running.jobs.GetStats(pb.GetStatsRequest())
    assert stats.total.stored[0].count == 1_800


async def test_a_stream_and_a_unary_call_race_for_an_attempt_and_one_wins(running: Running) -> None:
    await running.jobs.Create(pb.CreateRequest(id="a", job_type="clean_transcript"))

    async def unary() -> str:
        try:
            await running.jobs.Start(pb.StartRequest(id="a", worker="w"))
        except grpc.aio.AioRpcError as error:
            return refusal_of(error).reason
        return ""

    found, by_call = await asyncio.gather(outcomes(running, *(start("a") for _ in range(50))), unary())

    reasons = sorted([by_call, *(outcome.refusal.reason for outcome in found)])
    assert reasons == ["", *["TRANSITION_NOT_ALLOWED"] * 50]


async def test_a_stopping_server_answers_what_it_took_and_says_that_it_drains(path: Path) -> None:
    async with serving(path) as running, client_of(running.server.address) as other:
        call = other.jobs.StreamUpdates()
        await call.write(pb.StreamUpdatesRequest(batch=1, updates=[create("a"), start("a")]))
        answer = await call.read()

        stopping = asyncio.create_task(running.server.stop())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        await stopping

        assert isinstance(answer, pb.StreamUpdatesResponse)
        assert [outcome.version for outcome in answer.outcomes] == [1, 2]
        assert refusal_of(caught.value).brief == ("UNAVAILABLE", "DRAINING")
