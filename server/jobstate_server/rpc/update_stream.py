"""One StreamUpdates stream: batches in, outcomes out in the same order, several batches under way at once.

Reading waits while the committer's queue is full or too many batches await their answer, and gRPC's flow control then
makes the client wait: that is the back-pressure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.clock import Clock
from jobstate_server.domain.commands import Command
from jobstate_server.domain.errors import Draining, InvalidField, JobStateError
from jobstate_server.engine.batch import Verdict
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.writer import RETRY_DELAY_S
from jobstate_server.rpc import limits
from jobstate_server.rpc.calls import Call
from jobstate_server.rpc.errors import status_code
from jobstate_server.rpc.updates import command_of_update

BATCHES_UNDER_WAY_MAX = 8
"""Batches of one stream that await their answer: enough to keep the committer busy over a slow network."""


class _Batch(NamedTuple):
    """A batch whose commands have been handed on."""

    request: pb.StreamUpdatesRequest
    refused: dict[int, JobStateError]
    """By index: the updates that never became commands."""
    verdicts: asyncio.Future[list[Verdict]]


_Answerable = _Batch | Exception | None
"""A batch, what broke the stream off, or its end."""


async def update_stream(
    requests: AsyncIterator[pb.StreamUpdatesRequest],
    call: Call,
    committer: Committer,
    clock: Clock,
    draining: asyncio.Event,
) -> AsyncIterator[bytes]:
    """The encoded answers to a stream of batches.

    Args:
        draining: set when the server stops; the stream then takes no more batches and answers those it has.

    Raises:
        InvalidField: a batch is too large; those before it have been answered.
        Draining: the server is stopping; those before it have been answered.
    """
    under_way: asyncio.Queue[_Answerable] = asyncio.Queue(BATCHES_UNDER_WAY_MAX)
    reading = asyncio.create_task(_read(requests, call, committer, clock, under_way))
    stopping = asyncio.create_task(_stop_reading(reading, draining, under_way))
    try:
        while (batch := await under_way.get()) is not None:
            if isinstance(batch, Exception):
                raise batch
            verdicts = await batch.verdicts
            yield _answer(batch, verdicts)
    finally:
        reading.cancel()
        stopping.cancel()
        # Nobody is there to hear of these any more: what has not been begun is dropped.
        while not under_way.empty():
            left = under_way.get_nowait()
            if isinstance(left, _Batch):
                left.verdicts.cancel()


async def _read(
    requests: AsyncIterator[pb.StreamUpdatesRequest],
    call: Call,
    committer: Committer,
    clock: Clock,
    under_way: asyncio.Queue[_Answerable],
) -> None:
    try:
        async for request in requests:
            await under_way.put(await _hand_on(request, call, committer, clock))
    except Exception as error:
        await under_way.put(error)
    else:
        await under_way.put(None)


async def _stop_reading(
    reading: asyncio.Task[None], draining: asyncio.Event, under_way: asyncio.Queue[_Answerable]
) -> None:
    await draining.wait()
    reading.cancel()
    await under_way.put(Draining(RETRY_DELAY_S))


async def _hand_on(request: pb.StreamUpdatesRequest, call: Call, committer: Committer, clock: Clock) -> _Batch:
    count = len(request.updates)
    if count > limits.BATCH_ITEMS_MAX:
        raise InvalidField("updates", f"has {count} values, at most {limits.BATCH_ITEMS_MAX} are allowed")
    commands: list[Command] = []
    refused: dict[int, JobStateError] = {}
    for index, update in enumerate(request.updates):
        try:
            commands.append(command_of_update(update, call, clock.now))
        except JobStateError as refusal:
            refused[index] = refusal
    return _Batch(request, refused, await committer.submit_many(commands, request.ByteSize()))


def _answer(batch: _Batch, verdicts: list[Verdict]) -> bytes:
    answer = pb.StreamUpdatesResponse(batch=batch.request.batch)
    decided = iter(verdicts)
    add = answer.outcomes.add
    for index, update in enumerate(batch.request.updates):
        verdict = batch.refused.get(index) or next(decided)
        if isinstance(verdict, JobStateError):
            _fill_refusal(add(), update, verdict)
        else:
            job = verdict.jobs[0]
            add(id=job.id, version=job.version, attempt=job.attempt, state=job_pb2.JobState.ValueType(job.state))
    return answer.SerializeToString()


def _fill_refusal(outcome: pb.UpdateOutcome, update: pb.JobUpdate, error: JobStateError) -> None:
    kind = update.WhichOneof("update")
    outcome.id = getattr(update, kind).id if kind is not None else ""
    outcome.refusal.code = status_code(type(error)).value[0]
    outcome.refusal.reason = error.reason
    outcome.refusal.message = error.message
    outcome.refusal.metadata.update(error.facts)
