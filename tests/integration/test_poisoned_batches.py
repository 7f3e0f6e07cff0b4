"""One update of a batch never harms another, whatever it holds: the server parses each alone where it has to."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.rpc import update_stream
from jobstate_server.rpc.requests import updates

from ..support.calls import get
from ..support.server import Running
from .test_stream_updates import create, outcomes, progress, start

NEIGHBOURS = 40


def delimited(field: int, value: bytes) -> bytes:
    """A length-delimited field, as any encoder writes it."""
    length, size = b"", len(value)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + value


def nested(levels: int) -> bytes:
    """An encoded Struct with this many Structs in each other."""
    inner = b""
    for _ in range(levels):
        inner = delimited(1, delimited(1, b"k") + delimited(2, delimited(5, inner)))
    return inner


def report_with(metadata: bytes) -> bytes:
    """An encoded progress report of the job ``culprit`` with this metadata."""
    fields = {field.name: field.number for field in pb.UpdateProgressRequest.DESCRIPTOR.fields}
    report = pb.UpdateProgressRequest(id="culprit", attempt=1, progress=50).SerializeToString()
    return delimited(pb.JobUpdate.PROGRESS_FIELD_NUMBER, report + delimited(fields["metadata"], metadata))


POISONS = {
    "nested as deep as the batch cannot be parsed": report_with(nested(33)),
    "nested as deep as nothing can be parsed": report_with(nested(500)),
    "a text that is not UTF-8": delimited(
        pb.JobUpdate.PROGRESS_FIELD_NUMBER, delimited(1, b"culprit") + delimited(4, b"\xff\xfe")
    ),
    "cut short": delimited(pb.JobUpdate.PROGRESS_FIELD_NUMBER, delimited(1, b"culprit") + b"\x22\x7fcut"),
}


async def answers_to(running: Running, *batches: bytes) -> list[pb.StreamUpdatesResponse]:
    """What is answered to these encoded batches."""
    channel: Any = running.channel
    call = channel.stream_stream(
        "/jobstate.v1.JobService/StreamUpdates", response_deserializer=pb.StreamUpdatesResponse.FromString
    )(iter(batches))
    return [answer async for answer in call]


def poisoned(poison: bytes, batch: int) -> bytes:
    """A batch of 40 good updates with a bad one in their midst."""
    good = [delimited(2, progress(f"job-{number}", 50).SerializeToString()) for number in range(NEIGHBOURS)]
    half = NEIGHBOURS // 2
    return b"".join([*good[:half], delimited(2, poison), *good[half:], bytes([8, batch])])


@pytest.fixture
async def jobs(running: Running) -> Running:
    """A server with 40 running jobs, and one beside them."""
    ids = ["culprit", *(f"job-{number}" for number in range(NEIGHBOURS))]
    await outcomes(running, *(create(job_id) for job_id in ids), *(start(job_id) for job_id in ids))
    return running


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
async def test_the_poisoned_update_alone_is_refused_and_the_stream_goes_on(jobs: Running, poison: bytes) -> None:
    first, second = await answers_to(jobs, poisoned(poison, 3), poisoned(poison, 4))

    assert (first.batch, second.batch) == (3, 4)
    for answer in (first, second):
        refused = [outcome for outcome in answer.outcomes if outcome.HasField("refusal")]
        assert len(answer.outcomes) == NEIGHBOURS + 1
        assert [(outcome.id, outcome.refusal.reason) for outcome in refused] == [("culprit", "INVALID_FIELD")]
        assert answer.outcomes[NEIGHBOURS // 2] == refused[0]
    assert {(await get(jobs, f"job-{number}")).progress for number in range(NEIGHBOURS)} == {50}
    assert (await get(jobs, "culprit")).progress == 0


async def test_an_update_that_is_not_nested_too_deeply_by_itself_is_told_which_field_is(jobs: Running) -> None:
    (answer,) = await answers_to(jobs, poisoned(report_with(nested(32)), 1))

    refusal = answer.outcomes[NEIGHBOURS // 2].refusal
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "metadata")


async def test_what_an_update_meets_that_nobody_foresaw_is_told_in_its_place(
    jobs: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = updates.command_of_update

    def failing(update: pb.JobUpdate, *others: Any) -> Any:
        if update.progress.id == "culprit":
            raise RuntimeError("secret")
        return real(update, *others)

    monkeypatch.setattr(update_stream, "command_of_update", failing)

    told = await outcomes(jobs, progress("job-1", 10), progress("culprit", 10), progress("job-2", 10))

    assert [outcome.refusal.reason for outcome in told] == ["", "INTERNAL", ""]
    assert "secret" not in told[1].refusal.message


async def test_a_large_batch_is_done_update_by_update(jobs: Running) -> None:
    blob = pb.UpdateProgressRequest(id="job-0", attempt=1)
    blob.metadata.update({"blob": "x" * 60_000})
    sent = [pb.JobUpdate(progress=blob)] * 20 + [pb.JobUpdate(), create("new"), progress("job-1", 70)]
    batch = pb.StreamUpdatesRequest(batch=-5, updates=sent)
    assert batch.ByteSize() > 1 << 20

    (answer,) = await answers_to(jobs, batch.SerializeToString())

    assert answer.batch == -5
    assert [outcome.refusal.reason for outcome in answer.outcomes] == [*[""] * 20, "INVALID_FIELD", "", ""]
    assert answer.outcomes[-1].state == job_pb2.JOB_STATE_PROCESSING


@pytest.mark.parametrize("levels", [17, 33, 90])
async def test_what_the_python_stub_encodes_harms_nobody_beside_it(jobs: Running, levels: int) -> None:
    batch = pb.StreamUpdatesRequest()
    for number in range(NEIGHBOURS):
        batch.updates.add().progress.CopyFrom(progress(f"job-{number}", 50).progress)
    culprit = batch.updates.add().progress
    culprit.id, culprit.attempt = "culprit", 1
    inner = culprit.metadata
    for _ in range(levels):
        inner = inner.fields["k"].struct_value

    first, second = [answer async for answer in jobs.jobs.StreamUpdates(iter([batch, batch]))]

    for answer in (first, second):
        refused = [outcome for outcome in answer.outcomes if outcome.HasField("refusal")]
        assert [(outcome.id, outcome.refusal.reason) for outcome in refused] == [("culprit", "INVALID_FIELD")]
        assert len(answer.outcomes) == NEIGHBOURS + 1
