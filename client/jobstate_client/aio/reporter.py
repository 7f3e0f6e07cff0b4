"""The background sender of an asyncio client: one task and one StreamUpdates stream for all its runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core.outbox import Line, Outbox
from jobstate_client.core.refusals import error_of
from jobstate_client.core.running import Delivery
from jobstate_client.core.values import Job
from jobstate_client.errors import JobStateError, Unreachable

log = logging.getLogger("jobstate_client")

LINGER_S = 10.0
"""How long a stream without runs is kept for the next one."""


class AsyncReporter:
    """Sends what runs report."""

    def __init__(self, open_stream: Callable[[AsyncIterator[pb.StreamUpdatesRequest]], Any]) -> None:
        self._open_stream = open_stream
        self._outbox = Outbox()
        self._news = asyncio.Event()
        self._streams = 0
        self._task: asyncio.Task[None] | None = None
        self._trouble: JobStateError | None = None

    def join(self, job: Job, heartbeat_s: float | None) -> tuple[Line, asyncio.Event]:
        """Take on the reports of an attempt. The event is set when its ending has been answered."""
        ended = asyncio.Event()
        line = Line(job.id, job.attempt, heartbeat_s, time.monotonic(), ended.set)
        self._outbox.join(line)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="jobstate-reporter")
        return line, ended

    def leave(self, line: Line) -> None:
        """Forget an attempt."""
        self._outbox.leave(line)
        self._news.set()

    def report(self, line: Line, update: pb.UpdateProgressRequest) -> None:
        """Send this soon. Raises what an earlier report was refused with."""
        self._outbox.report(line, update)
        self._news.set()

    async def deliver(self, line: Line, ended: asyncio.Event, delivery: Delivery) -> Exception | None:
        """Send this, and wait for the answer. Returns what it was refused with."""
        ended.clear()
        try:
            self._outbox.end(line, delivery.ending)
        except JobStateError as error:
            return error
        self._news.set()
        try:
            async with asyncio.timeout(delivery.patience_s):
                await ended.wait()
        except TimeoutError:
            why = f": {self._trouble}" if self._trouble else ""
            return Unreachable(f"the end of {line.job_id} could not be told in {delivery.patience_s:g} s{why}")
        return line.end_error

    async def close(self) -> None:
        """Stop. What has not been sent is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        """Until there has been no run for a while; the next one begins anew."""
        while not self._outbox.is_empty:
            error: JobStateError | None = None
            self._streams += 1
            call = self._open_stream(self._requests(self._streams))
            try:
                async for response in call:
                    self._outbox.answer(response, time.monotonic())
                    self._trouble = None
                    self._news.set()
            except grpc.RpcError as failure:
                error = self._trouble = error_of(failure)
            finally:
                call.cancel()
                self._streams += 1
                self._news.set()
            wait = self._outbox.broken(error, time.monotonic())
            if error is not None:
                log.info("the stream of reports broke off (%s); it goes on in %.1f s", error, wait)
                await asyncio.sleep(wait)

    async def _requests(self, stream: int) -> AsyncIterator[pb.StreamUpdatesRequest]:
        """The sending side of a stream; ends it once there has been no run for a while."""
        # gRPC does not always tell the sending side that its stream has broken.
        while stream == self._streams:
            self._news.clear()
            now = time.monotonic()
            batch, is_idle = self._outbox.next_batch(now), self._outbox.is_empty
            if batch is not None:
                yield batch
                continue
            try:
                async with asyncio.timeout(LINGER_S if is_idle else self._outbox.pause_s(now)):
                    await self._news.wait()
            except TimeoutError:
                if is_idle and self._outbox.is_empty:
                    return
