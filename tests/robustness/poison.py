"""A client of streams of updates, some of which no server could accept, beside others that are as they should be."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import struct
from ..support.waiting import pause
from .attempts import BESIDE, ITSELF
from .clients import CALL_TIMEOUT_S, Shared, Stubs, note_outcome
from .history import REFUSED, UNKNOWN, Call
from .recording import ending_of
from .server_process import JOB_TYPES

METHOD = "/jobstate.v1.JobService/StreamUpdates"


def _field(number: int, payload: bytes) -> bytes:
    """A field of bytes, as protobuf encodes it; at most 16,383 bytes."""
    size = len(payload)
    return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + payload


def _nested_too_deeply(job_id: str) -> bytes:
    # By hand: this library would not parse it either, so that it cannot build it.
    value = b""
    for _ in range(60):
        value = _field(6, _field(1, value))
    metadata = _field(1, _field(1, b"deep") + _field(2, value))
    return _field(1, _field(1, job_id.encode()) + _field(pb.CreateRequest.METADATA_FIELD_NUMBER, metadata))


def _no_text(job_id: str) -> bytes:
    return _field(1, _field(1, job_id.encode()) + _field(2, b"\xff\xfe"))


def _cut_short(job_id: str) -> bytes:
    return pb.JobUpdate(create=pb.CreateRequest(id=job_id, job_type="resting")).SerializeToString()[:-3]


def _no_number(job_id: str) -> bytes:
    request = pb.CreateRequest(id=job_id, job_type="resting", metadata=struct(number=float("nan")))
    return pb.JobUpdate(create=request).SerializeToString()


def _no_such_percentage(job_id: str) -> bytes:
    return pb.JobUpdate(progress=pb.UpdateProgressRequest(id=job_id, attempt=1, progress=101)).SerializeToString()


def _no_type(job_id: str) -> bytes:
    return pb.JobUpdate(create=pb.CreateRequest(id=job_id)).SerializeToString()


def _nothing(job_id: str) -> bytes:
    return b""


POISONS: Sequence[Callable[[str], bytes]] = (
    _nested_too_deeply,
    _no_text,
    _cut_short,
    _no_number,
    _no_such_percentage,
    _no_type,
    _nothing,
)
"""Updates that cannot be parsed, or whose fields are wrong, of a job of this id."""


class PoisonedClient:
    """Sends batches, each with one poisoned update among honest ones, and writes down what came of each update."""

    def __init__(self, name: str, shared: Shared, stubs: Sequence[Stubs], rng: random.Random) -> None:
        self.name = name
        self.poisoned = 0
        """Poisoned updates that were answered."""
        self._shared = shared
        self._stubs = stubs
        self._rng = rng
        self._count = 0

    async def run(self) -> None:
        """Go on until the run stops."""
        while not self._shared.stopping.is_set():
            await self.batch()
            await pause(self._rng.uniform(0.0, 0.2))

    async def batch(self) -> None:
        """Send one batch over a stream of its own."""
        calls: list[Call] = []
        updates: list[bytes] = []
        for _ in range(self._rng.randrange(1, 5)):
            for call, update in self._honest():
                calls.append(call)
                updates.append(update.SerializeToString())
        at = self._rng.randrange(len(calls) + 1)
        job_id = self._new_id()
        calls.insert(at, Call("Create", job_id, UNKNOWN, changes=False, poisoned=ITSELF))
        updates.insert(at, self._rng.choice(POISONS)(job_id))
        raw = b"".join(_field(2, update) for update in updates)
        now = Shared.now()
        for call in calls:
            call.invoked = now
        await self._send(raw, calls)
        for call in calls:
            call.returned = Shared.now()
        self._shared.calls += calls

    def _honest(self) -> list[tuple[Call, pb.JobUpdate]]:
        """A job's whole life."""
        job_id = self._new_id()
        self._shared.job_ids.append(job_id)
        create, start, complete = (self._shared.mark() for _ in range(3))
        job_type = self._rng.choice(list(JOB_TYPES))
        updates = [
            pb.JobUpdate(create=pb.CreateRequest(id=job_id, job_type=job_type, metadata=struct(mark=create))),
            pb.JobUpdate(start=pb.StartRequest(id=job_id, worker=start)),
            pb.JobUpdate(complete=pb.CompleteRequest(id=job_id, attempt=1, result=struct(mark=complete))),
        ]
        names = ("Create", create), ("Start", start), ("Complete", complete)
        calls = [Call(rpc, job_id, UNKNOWN, marker=mark, poisoned=BESIDE) for rpc, mark in names]
        return list(zip(calls, updates, strict=True))

    def _new_id(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    async def _send(self, raw: bytes, calls: Sequence[Call]) -> None:
        open_stream: Any = self._rng.choice(self._stubs).channel.stream_stream(
            METHOD, response_deserializer=pb.StreamUpdatesResponse.FromString
        )
        stream = open_stream(timeout=CALL_TIMEOUT_S)
        try:
            await stream.write(raw)
            await stream.done_writing()
            answer = await stream.read()
            if answer is grpc.aio.EOF:
                return
        except grpc.aio.AioRpcError as error:
            ending = ending_of(error)
            if ending.reason and not ending.is_unknown:
                # The batch as a whole was refused.
                for call in calls:
                    call.outcome, call.code, call.reason = REFUSED, ending.code, ending.reason
            return
        finally:
            stream.cancel()
        for call, outcome in zip(calls, answer.outcomes, strict=True):
            self.poisoned += call.poisoned == ITSELF
            note_outcome(call, outcome)
