"""A StreamUpdates stream: it receives batches and answers them in the same order, several at a time.

It does not read while the committer's queue is full, while too many batches wait for their answers, or while the client
has too many bytes of unread answers. gRPC's flow control then makes the client wait, which is the back-pressure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import limits
from jobstate_server.domain.commands import Command, Create, JobCommand
from jobstate_server.domain.errors import Draining, JobStateError, Overloaded
from jobstate_server.domain.job import Job, JobState
from jobstate_server.engine.acquires import Acquires
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import Outcome, Verdict
from jobstate_server.engine.timekeeper import ahead_of_wall_clock
from jobstate_server.engine.write_queue import undelivered_jobs
from jobstate_server.engine.writer import RETRY_DELAY_S
from jobstate_server.rpc.byte_budget import ByteBudget, Share
from jobstate_server.rpc.call import StreamCall, public_error
from jobstate_server.rpc.errors import status_code
from jobstate_server.rpc.loop_turns import LoopTurns
from jobstate_server.rpc.requests.create import by_store_time
from jobstate_server.rpc.requests.dispatch import StreamAcquires
from jobstate_server.rpc.requests.keys import NewId
from jobstate_server.rpc.requests.updates import command_of_update
from jobstate_server.rpc.transport_limits import STREAMS_BYTES_MAX
from jobstate_server.rpc.update_batch import UnreadableUpdate, UpdateBatch, estimated_bytes, read_batch
from jobstate_server.wire.framing import embed, length_tag
from jobstate_server.wire.jobs import encode_whole

BATCHES_UNDER_WAY_MAX = 8
"""Batches of one stream that wait for their answers: enough to keep the committer busy over a slow network."""

SLICE_UPDATES = 128
"""Updates that are converted in one turn of the event loop: two milliseconds or so."""


class _Refused(NamedTuple):
    """An update that was refused before it became a command."""

    id: str
    error: JobStateError


class _Batch:
    """A batch. Its answer is encoded as soon as its commands are decided."""

    def __init__(self, share: Share, size: int, number: int) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.held = size
        """Bytes in the stream's share: an estimate until the batch is decided, then the answer's size until it is
        read."""
        self._share = share
        self._number = number
        self._updates: list[str | _Refused | None] = []
        """What the answer needs of each update: the id of its job, or why it became no command. None for an acquire."""
        self._commands: list[Command] = []
        """The commands, if jobs may be handed out to them."""
        self.handed_out: list[Job] = []
        """Jobs that were handed out, and that are released if the answer cannot be sent."""
        self._verdicts: asyncio.Future[list[Verdict]] | None = None

    async def commands(
        self, batch: UpdateBatch, call: StreamCall, new_id: NewId, turns: LoopTurns, ahead: int
    ) -> list[Command]:
        """The commands in this batch. Updates that are refused are stored for the answer.

        Args:
            turns: of the event loop. The caller has taken one.
            ahead: by how much the store's time is ahead of the wall clock, which callers use.
        """
        commands: list[Command] = []
        updates, caller = self._updates, call.caller
        acquires = StreamAcquires(batch.updates, caller)
        for number, update in enumerate(batch.updates, 1):
            if number % SLICE_UPDATES == 0:
                await turns.take()
            if isinstance(update, UnreadableUpdate):
                updates.append(_Refused(*update))
                continue
            try:
                command = command_of_update(update, caller, new_id, acquires)
            except Exception as error:
                # The error is reported in the outcome of this update. The others of its batch are not affected.
                # Without the traceback, whose frame has the batch, as the batch has the refusal.
                updates.append(_Refused(_id_in(update), public_error(error).with_traceback(None)))
                continue
            # The request itself is not stored: it may be large, and the client may never read the answer.
            if type(command) is Create:
                command = by_store_time(command, ahead)
                updates.append(update.create.id)
            else:
                updates.append(command.job_id if isinstance(command, JobCommand) else None)
            commands.append(command)
        if acquires.count:
            self._commands = commands
        return commands

    async def submit(self, commands: list[Command], committer: Committer, size: int) -> None:
        """Submit these commands to the committer, after there is room for them."""
        self._verdicts = verdicts = await committer.submit_many(commands, size, self._share.connection)
        verdicts.add_done_callback(self._decided)

    def _decided(self, verdicts: asyncio.Future[list[Verdict]]) -> None:
        self._verdicts = None
        if self.answer.done():
            return
        if verdicts.cancelled():
            self.answer.cancel()
            return
        try:
            if self._commands:
                self.handed_out = undelivered_jobs(self._commands, verdicts.result())
                self._commands = []
            answer = self._encode(verdicts.result())
        except Exception as error:
            self.answer.set_exception(error)
        else:
            self._share.resize(self.held, len(answer))
            self.held = len(answer)
            self.answer.set_result(answer)

    def _encode(self, verdicts: Sequence[Verdict]) -> bytes:
        answer = pb.StreamUpdatesResponse(batch=self._number)
        add, decided = answer.outcomes.add, iter(verdicts)
        encoded: list[bytes] = []
        for update in self._updates:
            if isinstance(update, _Refused):
                _fill_refusal(add(), *update)
                continue
            verdict = next(decided)
            if not isinstance(verdict, Outcome):
                _fill_refusal(add(), update or "", verdict)
            elif update is None:
                # The jobs are encoded already. What follows is a message of its own, which a parser merges.
                encoded += (answer.SerializeToString(), _encode_acquired(verdict.jobs))
                answer = pb.StreamUpdatesResponse()
                add = answer.outcomes.add
            else:
                # Set one by one, which takes two thirds of the time of arguments by name.
                outcome, job = add(), verdict.jobs[0]
                outcome.id = job.id
                outcome.version = job.version
                outcome.attempt = job.attempt
                outcome.state = _STATES[job.state]
                if verdict.existing:
                    outcome.existing = True
        return b"".join((*encoded, answer.SerializeToString()))

    def drop(self, committer: Committer) -> None:
        """Drop the batch, because its client is gone. Commands that the committer has not begun are cancelled."""
        committer.return_undelivered(self.handed_out)
        if self._verdicts is not None:
            self._verdicts.cancel()
        if not self.answer.cancel() and not self.answer.cancelled():
            # Retrieved, so that asyncio does not log it.
            self.answer.exception()


_OUTCOMES = length_tag(pb.StreamUpdatesResponse.OUTCOMES_FIELD_NUMBER)
_ACQUIRED = length_tag(pb.UpdateOutcome.JOBS_FIELD_NUMBER)


def _encode_acquired(jobs: Sequence[Job]) -> bytes:
    """The outcome of an acquire, as a field of the answer."""
    return embed(_OUTCOMES, b"".join([embed(_ACQUIRED, encode_whole(job)) for job in jobs]))


_STATES = {state: job_pb2.JobState.ValueType(state) for state in JobState}

_Answerable = _Batch | Exception | None
"""A batch, the error that ends the stream, or None at the end of the stream."""


class UpdateStreams:
    """The StreamUpdates streams of a server."""

    def __init__(
        self,
        committer: Committer,
        new_id: NewId,
        acquires: Acquires,
        budget: ByteBudget | None = None,
        turns: LoopTurns | None = None,
    ) -> None:
        self._committer = committer
        self._acquires = acquires
        self._new_id = new_id
        self._budget = budget or ByteBudget(reserve=STREAMS_BYTES_MAX // 4)
        self._turns = turns or LoopTurns()
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """The server is stopping: read no more batches, and answer those that were read."""
        self._draining.set()

    async def answers(self, requests: AsyncIterator[bytes], call: StreamCall) -> AsyncIterator[bytes]:
        """The encoded answers to a stream of encoded batches.

        Raises:
            InvalidField, MessageTooLarge: a batch is invalid or too large. Those before it have been answered.
            Draining: the server is stopping. The batches that were read have been answered.
        """
        loop = asyncio.get_running_loop()
        share = self._budget.share(call.connection, lambda: call.end(_unread()))
        under_way: asyncio.Queue[_Answerable] = asyncio.Queue(BATCHES_UNDER_WAY_MAX)
        reading = asyncio.create_task(self._read(requests, call, share, under_way))
        stopping = asyncio.create_task(self._stop_reading(reading, under_way))
        batch: _Answerable = None
        try:
            while (batch := await under_way.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                answer = await batch.answer
                self._acquires.note_handed_out(batch.handed_out)
                share.unread_since = loop.time()
                yield answer
                share.unread_since = None
                batch.handed_out = []
                share.resize(batch.held, 0)
        finally:
            reading.cancel()
            stopping.cancel()
            if isinstance(batch, _Batch):
                batch.drop(self._committer)
            while not under_way.empty():
                left = under_way.get_nowait()
                if isinstance(left, _Batch):
                    left.drop(self._committer)
            share.close()

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        call: StreamCall,
        share: Share,
        under_way: asyncio.Queue[_Answerable],
    ) -> None:
        try:
            async for raw in requests:
                size = estimated_bytes(raw)
                await share.take(size)
                call.count_read(len(raw))
                await self._turns.take()
                read = read_batch(raw)
                batch = _Batch(share, size, read.number)
                ahead = ahead_of_wall_clock(self._acquires.clock)
                commands, size = await batch.commands(read, call, self._new_id, self._turns, ahead), len(raw)
                # Only the commands wait in memory until they are written.
                del raw, read
                await batch.submit(commands, self._committer, size)
                del commands
                try:
                    await under_way.put(batch)
                except asyncio.CancelledError:
                    batch.drop(self._committer)
                    raise
        except asyncio.CancelledError:
            # Not raised: the task would keep it, with the frames that have the batch, and they refer to the task. In
            # such a cycle a batch would stay in memory until the next full garbage collection.
            return
        except Exception as error:
            await under_way.put(error)
        else:
            await under_way.put(None)

    async def _stop_reading(self, reading: asyncio.Task[None], under_way: asyncio.Queue[_Answerable]) -> None:
        await self._draining.wait()
        reading.cancel()
        await under_way.put(Draining(RETRY_DELAY_S))


def _unread() -> Overloaded:
    return Overloaded("the answers were not read while others waited for memory", RETRY_DELAY_S)


def _id_in(update: pb.JobUpdate) -> str:
    kind = update.WhichOneof("update")
    return getattr(getattr(update, kind), "id", "") if kind is not None else ""


def _fill_refusal(outcome: pb.UpdateOutcome, job_id: str, error: JobStateError) -> None:
    # The id in the update may be megabytes long, and the sender knows it.
    outcome.id = job_id[: limits.JOB_ID_LENGTH_MAX]
    outcome.refusal.code = status_code(error).value[0]
    outcome.refusal.reason = error.reason
    outcome.refusal.message = error.message
    outcome.refusal.metadata.update(error.facts)
