"""``async with client.updates() as updates:`` changes of many jobs over one stream, with asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.aio.cancellation import is_cancelling
from jobstate_client.core import report_queue
from jobstate_client.core.client_methods import UpdateMethods
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.report_queue import answer_timed_out
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.update_queue import Answer, UpdateQueue, closed_error, warn_of_failures
from jobstate_client.core.values import Updated
from jobstate_client.errors import ClientClosed, JobStateError, TransportError

log = logging.getLogger("jobstate_client")

Answers = Iterable[Answer["asyncio.Future[Updated]"]]


class AsyncUpdates(UpdateMethods):
    """``Updates`` for asyncio: ``await updates.create(...)`` waits for room, and returns a future to await."""

    def __init__(
        self,
        open_stream: Callable[[AsyncIterator[pb.StreamUpdatesRequest]], Any],
        lifetime: Lifetime,
        patience_s: float,
    ) -> None:
        self._open_stream = open_stream
        self._lifetime = lifetime
        self._queue: UpdateQueue[asyncio.Future[Updated]] = UpdateQueue(patience_s)
        self._news = asyncio.Event()
        """Set when there is something to send, or the stream is over."""
        self._answered = asyncio.Event()
        """Set when updates have been answered, so that there is room."""
        self._task: asyncio.Task[None] | None = None
        self._call: Any = None
        self._streams = 0
        self._answer_timeout: asyncio.TimerHandle | None = None
        self._timed_out = False
        self._closed: ClientClosed | None = None
        self._sent = self._failed = 0
        self._first_error: JobStateError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            self.close()
            warn_of_failures(self._sent, self._failed, self._first_error)

    async def flush(self) -> None:
        """Wait until every update has been answered, or has failed."""
        self._lifetime.check()
        while not self._queue.is_empty:
            self._answered.clear()
            await self._answered.wait()

    def close(self) -> None:
        """Send nothing more. What has not been answered fails with ``ClientClosed``: its outcome is unknown."""
        if self._lifetime.is_forked:
            return
        self._closed = self._closed or closed_error()
        self._resolve(self._queue.abandon(self._closed))
        self._news.set()
        if self._task is not None:
            self._task.cancel()

    async def _send(self, request: Message) -> asyncio.Future[Updated]:
        self._check()
        while self._queue.is_full:
            self._answered.clear()
            await self._answered.wait()
            self._check()
        future: asyncio.Future[Updated] = asyncio.get_running_loop().create_future()
        self._queue.add(request, future)
        self._sent += 1
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="jobstate-updates")
        return future

    def _check(self) -> None:
        self._lifetime.check()
        if self._closed is not None:
            raise self._closed

    async def _serve(self) -> None:
        """The body of the task: one stream after the other."""
        while self._closed is None:
            while not self._queue.has_batch:
                self._news.clear()
                await self._news.wait()
            error = await self._run_stream()
            wait_s, answers = self._queue.stream_ended(self._why_ended(error))
            self._resolve(answers)
            if wait_s:
                log.info("the stream of updates broke (%s); opening another in %.1f s", error, wait_s)
                await asyncio.sleep(wait_s)

    async def _run_stream(self) -> JobStateError | None:
        """Run one stream until it ends. Returns the error that it broke with, or None."""
        self._timed_out = False
        self._streams += 1
        try:
            self._call = self._open_stream(self._batches(self._streams))
            async for response in self._call:
                self._resolve(self._queue.handle_response(response))
                self._limit_answer()
                self._news.set()
        except grpc.RpcError as failure:
            return answer_timed_out() if self._timed_out else error_from_rpc(failure)
        except JobStateError as failure:
            return failure
        except grpc.aio.UsageError as failure:
            return ClientClosed(f"the channel was closed: {failure}")
        except asyncio.CancelledError:
            if is_cancelling():
                raise
            # gRPC ends a call like this when it cannot write to it, or when the channel was closed.
            return answer_timed_out() if self._timed_out else TransportError("gRPC gave up the stream of updates")
        finally:
            if self._answer_timeout is not None:
                self._answer_timeout.cancel()
                self._answer_timeout = None
            if self._call is not None:
                self._call.cancel()
                self._call = None
            # Ends the sending side.
            self._streams += 1
            self._news.set()
        return None

    async def _batches(self, stream: int) -> AsyncIterator[pb.StreamUpdatesRequest]:
        """The sending side of a stream."""
        while stream == self._streams and self._closed is None:
            if not self._queue.has_batch:
                self._news.clear()
                await self._news.wait()
                continue
            batch = self._queue.next_batch()
            if self._answer_timeout is None:
                self._limit_answer()
            yield batch

    def _limit_answer(self) -> None:
        """Limit the wait for the next answer, if one is expected."""
        if self._answer_timeout is not None:
            self._answer_timeout.cancel()
        self._answer_timeout = None
        if self._queue.expects_answer:
            loop = asyncio.get_running_loop()
            self._answer_timeout = loop.call_later(report_queue.ANSWER_TIMEOUT_S, self._time_out)

    def _time_out(self) -> None:
        self._timed_out = True
        if self._call is not None:
            self._call.cancel()

    def _why_ended(self, error: JobStateError | None) -> JobStateError | None:
        return self._closed or error

    def _resolve(self, answers: Answers) -> None:
        for future, updated, error in answers:
            self._failed += error is not None
            self._first_error = self._first_error or error
            if future.done():
                continue
            if error is None:
                assert updated is not None
                future.set_result(updated)
            else:
                future.set_exception(error)
        self._answered.set()
