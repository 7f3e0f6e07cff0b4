"""Sends the reports of an asyncio client: one task and one StreamUpdates stream for all its runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.aio.cancellation import is_cancelling
from jobstate_client.aio.heartbeat_thread import HeartbeatThread
from jobstate_client.core import report_queue
from jobstate_client.core.attempt_reports import AttemptReports
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.report_queue import ReportQueue, answer_timed_out
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run_ending import Delivery
from jobstate_client.core.values import Job
from jobstate_client.errors import ClientClosed, JobStateError, TransportError, Unreachable

log = logging.getLogger("jobstate_client")

IDLE_S = 10.0
"""How long a stream without runs stays open for the next run."""


class AsyncReportSender:
    """Sends what runs report."""

    def __init__(
        self,
        open_stream: Callable[[AsyncIterator[pb.StreamUpdatesRequest]], Any],
        lifetime: Lifetime,
        connect: Callable[[], grpc.Channel] | None,
    ) -> None:
        """Start nothing yet. Must be called on the client's event loop.

        Args:
            open_stream: opens a StreamUpdates stream.
            lifetime: the client's.
            connect: opens a channel for threads; None if that is not possible.
        """
        self._open_stream = open_stream
        self._lifetime = lifetime
        self._queue = ReportQueue()
        self._heartbeats = HeartbeatThread(asyncio.get_running_loop(), self._queue.attempts, connect)
        self._news = asyncio.Event()
        self._streams = 0
        self._call: Any = None
        self._answer_timeout: asyncio.TimerHandle | None = None
        """Ends the stream when the oldest answer that is expected takes too long."""
        self._timed_out = False
        self._task: asyncio.Task[None] | None = None
        self._last_error: JobStateError | None = None
        """The error of the last stream, until another stream is answered."""
        self._closed_by: ClientClosed | None = None
        """Why nothing can be sent any more."""
        self._is_leaving = False
        """Whether the program is ending: the task then ends with the last run."""

    def add(self, job: Job, heartbeat_s: float | None) -> tuple[AttemptReports, asyncio.Event]:
        """Begin to send the reports of an attempt. The event is set when its ending has been answered."""
        self._check()
        ended = asyncio.Event()
        reports = AttemptReports(job.id, job.attempt, heartbeat_s, time.monotonic(), ended.set)
        self._queue.add(reports)
        self._wake()
        if heartbeat_s is not None:
            self._heartbeats.keep_running()
        return reports, ended

    def remove(self, reports: AttemptReports) -> None:
        """Forget an attempt."""
        self._queue.remove(reports)
        self._news.set()

    def report(self, reports: AttemptReports, update: pb.UpdateProgressRequest) -> None:
        """Send this soon. Raises the error that an earlier report was refused with."""
        self._check()
        reports.add(update)
        self._wake()

    async def deliver(self, reports: AttemptReports, ended: asyncio.Event, delivery: Delivery) -> Exception | None:
        """Send an ending and wait for the answer. Returns the error that it was refused with."""
        ended.clear()
        try:
            self._check()
            reports.end(delivery.ending)
        except JobStateError as error:
            return error
        self._wake()
        try:
            async with asyncio.timeout(delivery.patience_s):
                await ended.wait()
        except TimeoutError:
            why = f": {self._last_error}" if self._last_error else ""
            return Unreachable(f"the end of {reports.job_id} could not be sent within {delivery.patience_s:g} s{why}")
        return reports.end_error

    async def close(self) -> None:
        """Stop. What has not been sent is dropped, and runs that wait for their end get ``ClientClosed``."""
        self._give_up(ClientClosed("the client was closed before the end of the run was sent"))
        self._heartbeats.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _check(self) -> None:
        self._lifetime.check()
        if self._closed_by is not None:
            raise self._closed_by

    def _give_up(self, error: ClientClosed) -> None:
        self._closed_by = error
        self._queue.abandon(error)

    def _wake(self) -> None:
        """There is something to send: wake the task, or start one."""
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="jobstate-reports")
            self._task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """The task has ended: because there is no run, or with an exception that it could not handle."""
        failure = None if task.cancelled() else task.exception()
        if (failure is None and not task.cancelled()) or self._closed_by is not None or self._queue.is_empty:
            return
        log.error("the task that sends reports has died; starting another", exc_info=failure)
        self._wake()

    async def _serve(self) -> None:
        """Run streams until there has been no run for IDLE_S; the next run starts another task."""
        # What a task that died had sent.
        self._queue.stream_ended(None, time.monotonic())
        while not self._queue.is_empty and self._closed_by is None:
            try:
                error = await self._run_stream()
                wait = self._queue.stream_ended(error, time.monotonic())
                if error is not None:
                    log.info("the stream of reports broke (%s); opening another in %.1f s", error, wait)
                    await asyncio.sleep(wait)
            except asyncio.CancelledError:
                self._survive_cancellation()

    def _survive_cancellation(self) -> None:
        """Continue after a cancellation: when all tasks of a loop are cancelled, the runs still report their ends."""
        task = asyncio.current_task()
        if self._closed_by is not None or self._is_leaving or task is None:
            raise asyncio.CancelledError
        self._is_leaving = True
        self._queue.stream_ended(None, time.monotonic())
        task.uncancel()

    async def _run_stream(self) -> JobStateError | None:
        """Run one stream until it ends. Returns the error that it broke with, or None."""
        self._call, self._timed_out = None, False
        self._streams += 1
        try:
            self._call = self._open_stream(self._requests(self._streams))
            async for response in self._call:
                self._queue.handle_response(response, time.monotonic())
                self._limit_answer()
                self._last_error = None
                self._news.set()
        except grpc.RpcError as failure:
            error = answer_timed_out() if self._timed_out else error_from_rpc(failure)
        except JobStateError as failure:
            error = failure
        except grpc.aio.UsageError as failure:
            error = ClientClosed(f"the channel was closed: {failure}")
            self._give_up(error)
        except asyncio.CancelledError:
            if is_cancelling():
                raise
            # gRPC ends a call like this when it cannot write to it, or when the channel was closed.
            error = answer_timed_out() if self._timed_out else TransportError("gRPC gave up the stream of reports")
        except (KeyboardInterrupt, SystemExit):
            raise  # By a signal handler: the program ends.
        except BaseException as failure:
            # Whatever it is, the runs of this client need the task.
            log.exception("the stream of reports failed; opening another")
            error = TransportError(f"the stream of reports failed: {failure!r}")
        else:
            return None
        finally:
            if self._call is not None:
                self._call.cancel()
            if self._answer_timeout is not None:
                self._answer_timeout.cancel()
            self._streams += 1
            self._news.set()
        self._last_error = error
        return error

    def _limit_answer(self) -> None:
        """Limit the wait for the oldest answer that is expected."""
        if self._answer_timeout is not None:
            self._answer_timeout.cancel()
        since = self._queue.waiting_since
        if since is not None:
            left = since + report_queue.ANSWER_TIMEOUT_S - time.monotonic()
            self._answer_timeout = asyncio.get_running_loop().call_later(max(0.0, left), self._time_out)

    def _time_out(self) -> None:
        self._timed_out = True
        if self._call is not None:
            self._call.cancel()

    async def _requests(self, stream: int) -> AsyncIterator[pb.StreamUpdatesRequest]:
        """The sending side of a stream. Ends when there has been no run for IDLE_S."""
        # The number is compared because gRPC does not always end the sending side of a stream that broke.
        while stream == self._streams:
            self._news.clear()
            now = time.monotonic()
            batch, is_idle = self._queue.next_batch(now), self._queue.is_empty
            if batch is not None:
                self._limit_answer()
                yield batch
                continue
            if is_idle and self._is_leaving:
                return
            try:
                async with asyncio.timeout(IDLE_S if is_idle else self._queue.next_batch_in_s(now)):
                    await self._news.wait()
            except TimeoutError:
                if is_idle and self._queue.is_empty:
                    return
