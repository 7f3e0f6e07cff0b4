"""``async with client.run(job) as run:``"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from jobstate_client.aio.cancellation import finish_despite_cancel
from jobstate_client.core.attempt_reports import AttemptReports
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, Run, RunOptions
from jobstate_client.core.run_ending import finish_run, not_begun
from jobstate_client.core.values import Job
from jobstate_client.errors import JobCancelled

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient

log = logging.getLogger("jobstate_client")


class AsyncRunContext:
    """The context manager of a run: the attempt begins with the block and ends with it."""

    def __init__(self, client: AsyncClient, start: Callable[[], Awaitable[Job]], options: RunOptions) -> None:
        self._client = client
        self._start = start
        self._options = options
        self._entered: tuple[Run, AttemptReports, asyncio.Event] | None = None

    async def __aenter__(self) -> Run:
        task, cancellation = await finish_despite_cancel(self._begin(), INTERRUPTED_PATIENCE_S)
        if cancellation is None:
            return task.result()
        if self._entered is not None:
            # Nobody will do what was claimed: release the attempt, so that another worker gets the job.
            await self._end(not_begun(cancellation))
        raise cancellation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(error)

    @property
    def has_begun(self) -> bool:
        """Whether the block has been entered."""
        return self._entered is not None

    @property
    def is_over(self) -> bool:
        """Whether the server has said that the attempt is over."""
        return self._entered is not None and self._entered[1].over is not None

    def cancel(self, error: JobCancelled) -> bool:
        """The job has been cancelled: tell the run. Returns whether the work in the block was under way until now."""
        return self._entered is not None and self._entered[1].cancel(error)

    async def _begin(self) -> Run:
        job = await self._start()
        sender = self._client._report_sender
        reports, ended = sender.add(job, await self._client._heartbeat_s(job, self._options))
        run = Run(job, reports, sender.report)
        self._entered = run, reports, ended
        return run

    async def _end(self, error: BaseException | None) -> None:
        assert self._entered is not None
        run, reports, _ = self._entered
        try:
            task, cancellation = await finish_despite_cancel(self._finish(error), INTERRUPTED_PATIENCE_S)
        finally:
            self._client._report_sender.remove(reports)
        if cancellation is None:
            if (interrupt := task.result()) is not None:
                raise interrupt
            return
        if task.cancelled():
            log.warning("the end of job %s was not reported: its task was cancelled before the server answered", run.id)
        elif (problem := task.exception()) is not None:
            cancellation.add_note(f"{run.id}: {problem}")
        raise cancellation

    async def _finish(self, error: BaseException | None) -> BaseException | None:
        """Report the end. Returns what ends the program: raised in a task, it would end the event loop at once."""
        assert self._entered is not None
        run, reports, ended = self._entered
        deliveries = finish_run(run, error, self._options)
        try:
            delivery = next(deliveries)
            while True:
                delivery = deliveries.send(await self._client._report_sender.deliver(reports, ended, delivery))
        except StopIteration:
            return None
        except (SystemExit, KeyboardInterrupt) as interrupt:
            return interrupt
