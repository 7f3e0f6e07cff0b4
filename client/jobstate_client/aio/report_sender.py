"""The background sender of an asyncio client: one task and one StreamUpdates stream for all its runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.aio.heartbeat_thread import HeartbeatThread
from jobstate_client.aio.watch import is_cancelling
from jobstate_client.core import report_queue
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.report_queue import AttemptReports, ReportQueue, unanswered
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run import Delivery
from jobstate_client.core.values import Job
from jobstate_client.errors import ClientClosed, JobStateError, TransportError, Unreachable

log = logging.getLogger("jobstate_client")

LINGER_S = 10.0
"""How long a stream without runs is kept for the next one."""


class AsyncReportSender:
    """Sends what runs report."""

    def __init__(
        self,
        open_stream: Callable[[AsyncIterator[pb.StreamUpdatesRequest]], Any],
        lifetime: Lifetime,
        connect: Callable[[], grpc.Channel] | None,
    ) -> None:
        """Begin, on the event loop at hand.

        Args:
            open_stream: opens a StreamUpdates stream.
            lifetime: the client's.
            connect: makes a channel for threads, if there is a way to.
        """
        self._open_stream = open_stream
        self._lifetime = lifetime
        self._outbox = ReportQueue()
        self._pulse = HeartbeatThread(asyncio.get_running_loop(), self._outbox.lines, connect)
        self._news = asyncio.Event()
        self._streams = 0
        self._call: Any = None
        self._late: asyncio.TimerHandle | None = None
        """Ends the stream if the oldest answer that is still to come takes too long."""
        self._is_late = False
        self._task: asyncio.Task[None] | None = None
        self._trouble: JobStateError | None = None
        self._closed_by: ClientClosed | None = None
        """Why nothing can be sent any more."""
        self._is_leaving = False
        """Whether the program is ending: the task then ends with the last run."""

    def join(self, job: Job, heartbeat_s: float | None) -> tuple[AttemptReports, asyncio.Event]:
        """Take on the reports of an attempt. The event is set when its ending has been answered."""
        self._check()
        ended = asyncio.Event()
        line = AttemptReports(job.id, job.attempt, heartbeat_s, time.monotonic(), ended.set)
        self._outbox.join(line)
        self._send_on()
        if heartbeat_s is not None:
            self._pulse.watch()
        return line, ended

    def leave(self, line: AttemptReports) -> None:
        """Forget an attempt."""
        self._outbox.leave(line)
        self._news.set()

    def report(self, line: AttemptReports, update: pb.UpdateProgressRequest) -> None:
        """Send this soon. Raises what an earlier report was refused with."""
        self._check()
        self._outbox.report(line, update)
        self._send_on()

    async def deliver(self, line: AttemptReports, ended: asyncio.Event, delivery: Delivery) -> Exception | None:
        """Send this, and wait for the answer. Returns what it was refused with."""
        ended.clear()
        try:
            self._check()
            self._outbox.end(line, delivery.ending)
        except JobStateError as error:
            return error
        self._send_on()
        try:
            async with asyncio.timeout(delivery.patience_s):
                await ended.wait()
        except TimeoutError:
            why = f": {self._trouble}" if self._trouble else ""
            return Unreachable(f"the end of {line.job_id} could not be told in {delivery.patience_s:g} s{why}")
        return line.end_error

    async def close(self) -> None:
        """Stop. What has not been sent is dropped, and runs that wait for their end are told so."""
        self._give_up(ClientClosed("the client was closed before the end of the run could be told"))
        self._pulse.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _check(self) -> None:
        self._lifetime.check()
        if self._closed_by is not None:
            raise self._closed_by

    def _give_up(self, error: ClientClosed) -> None:
        self._closed_by = error
        self._outbox.abandon(error)

    def _send_on(self) -> None:
        """There is something to send: wake the task. Start it, or another when it has died."""
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="jobstate-reporter")
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task has ended: by itself, or of something that it could not go on after."""
        failure = None if task.cancelled() else task.exception()
        if (failure is None and not task.cancelled()) or self._closed_by is not None or self._outbox.is_empty:
            return
        log.error("the task that sends reports has died; another takes its place", exc_info=failure)
        self._send_on()

    async def _serve(self) -> None:
        """Until there has been no run for a while; the next one begins anew."""
        # Of a task that died.
        self._outbox.broken(None, time.monotonic())
        while not self._outbox.is_empty and self._closed_by is None:
            try:
                error = await self._trouble_with_stream()
                wait = self._outbox.broken(error, time.monotonic())
                if error is not None:
                    log.info("the stream of reports broke off (%s); it goes on in %.1f s", error, wait)
                    await asyncio.sleep(wait)
            except asyncio.CancelledError:
                self._stay_for_runs()

    def _stay_for_runs(self) -> None:
        """Somebody has cancelled all tasks of the loop: the runs among them have their ends to tell."""
        task = asyncio.current_task()
        if self._closed_by is not None or self._is_leaving or task is None:
            raise asyncio.CancelledError
        self._is_leaving = True
        self._outbox.broken(None, time.monotonic())
        task.uncancel()

    async def _trouble_with_stream(self) -> JobStateError | None:
        """Keep a stream going until it ends. Returns what it broke off with, if it did."""
        self._call, self._is_late = None, False
        self._streams += 1
        try:
            self._call = self._open_stream(self._requests(self._streams))
            async for response in self._call:
                self._outbox.answer(response, time.monotonic())
                self._limit_answer()
                self._trouble = None
                self._news.set()
        except grpc.RpcError as failure:
            error = unanswered() if self._is_late else error_from_rpc(failure)
        except JobStateError as failure:
            error = failure
        except grpc.aio.UsageError as failure:
            error = ClientClosed(f"the channel was closed: {failure}")
            self._give_up(error)
        except asyncio.CancelledError:
            if is_cancelling():
                raise
            # gRPC gives up a call in this way when it cannot write to it, or its channel was closed.
            error = unanswered() if self._is_late else TransportError("the stream of reports was given up by gRPC")
        except (KeyboardInterrupt, SystemExit):
            # Of a signal handler: the program ends.
            raise
        except BaseException as failure:
            # Whatever it is, the runs of this client need the task.
            log.exception("the stream of reports failed; it goes on with another")
            error = TransportError(f"the stream of reports failed: {failure!r}")
        else:
            return None
        finally:
            if self._call is not None:
                self._call.cancel()
            if self._late is not None:
                self._late.cancel()
            self._streams += 1
            self._news.set()
        self._trouble = error
        return error

    def _limit_answer(self) -> None:
        """Limit the wait for the oldest answer that is still to come."""
        if self._late is not None:
            self._late.cancel()
        since = self._outbox.unanswered_since
        if since is not None:
            left = since + report_queue.ANSWER_S - time.monotonic()
            self._late = asyncio.get_running_loop().call_later(max(0.0, left), self._give_up_stream)

    def _give_up_stream(self) -> None:
        self._is_late = True
        if self._call is not None:
            self._call.cancel()

    async def _requests(self, stream: int) -> AsyncIterator[pb.StreamUpdatesRequest]:
        """The sending side of a stream; ends it once there has been no run for a while."""
        # gRPC does not always tell the sending side that its stream has broken.
        while stream == self._streams:
            self._news.clear()
            now = time.monotonic()
            batch, is_idle = self._outbox.next_batch(now), self._outbox.is_empty
            if batch is not None:
                self._limit_answer()
                yield batch
                continue
            if is_idle and self._is_leaving:
                return
            try:
                async with asyncio.timeout(LINGER_S if is_idle else self._outbox.pause_s(now)):
                    await self._news.wait()
            except TimeoutError:
                if is_idle and self._outbox.is_empty:
                    return
