"""However many attempts a job has had, an answer is no longer than any client takes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc

from ..support.calls import create, struct
from ..support.clock import WatchedClock
from ..support.server import Running, serving_url

DETAILS = struct(text="d" * 8_000)


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    async with serving_url(url, clock) as running:
        yield running


async def let_fail(running: Running, count: int, error: pb.FailureReport) -> None:
    """Let a new job fail this many times; it has one attempt more, which is running."""
    await create(running, max_retries=1_000)
    updates = [pb.JobUpdate(start=pb.StartRequest(id="job"))]
    for number in range(1, count + 1):
        updates.append(pb.JobUpdate(fail=pb.FailRequest(id="job", attempt=number, error=error)))
        updates.append(pb.JobUpdate(retry=pb.RetryRequest(id="job", immediately=True)))
    batches = [pb.StreamUpdatesRequest(updates=updates[start : start + 200]) for start in range(0, len(updates), 200)]
    answers = [answer async for answer in running.jobs.StreamUpdates(iter(batches))]
    assert not [o.refusal for answer in answers for o in answer.outcomes if o.HasField("refusal")]


async def attempts(running: Running) -> pb.GetResponse:
    """As a client with gRPC's default limit of 4 MiB reads it."""
    async with grpc.aio.insecure_channel(running.server.address) as channel:
        stub: job_service_pb2_grpc.JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(channel)
        return await stub.Get(pb.GetRequest(id="job", include_attempts=True))


async def test_the_latest_100_attempts_are_returned_and_the_others_counted(running: Running) -> None:
    await let_fail(running, 250, pb.FailureReport(code="X"))

    answer = await attempts(running)

    assert [attempt.number for attempt in answer.attempts] == list(range(151, 251))
    assert answer.attempts_omitted == 150
    assert (answer.job.attempt, answer.job.claimed) == (251, False)


async def test_attempts_with_long_errors_are_cut_at_a_mebibyte(running: Running) -> None:
    await let_fail(running, 120, pb.FailureReport(code="X", message="m" * 4_000, details=DETAILS))

    answer = await attempts(running)

    assert answer.attempts[-1].number == 120
    assert answer.attempts_omitted == 120 - len(answer.attempts)
    assert 0.9 * 2**20 < sum(attempt.ByteSize() for attempt in answer.attempts) < 1.1 * 2**20
    numbers = [attempt.number for attempt in answer.attempts]
    assert numbers == list(range(numbers[0], 121))


@pytest.mark.parametrize("count", [0, 1, 100, 101])
async def test_with_few_attempts_none_is_omitted(running: Running, count: int) -> None:
    await let_fail(running, count, pb.FailureReport())

    answer = await attempts(running)

    assert len(answer.attempts) == min(count, 100)
    assert answer.attempts_omitted == max(0, count - 100)
    plain = await running.jobs.Get(pb.GetRequest(id="job"))
    assert (list(plain.attempts), plain.attempts_omitted) == ([], 0)
