"""``async with client.run(job) as run:``"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from jobstate_client.aio.cancellation import finish_despite_cancel
from jobstate_client.core.attempt_reports import AttemptReports
from jobstate_client.core.releasing import Release
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
        self._release: Release | None = None
        """What is reported if the block is cancelled."""

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
    def over(self) -> BaseException | None:
        """Why the attempt is over, if that became known while the block went on. A Release: the worker gave it back."""
        return self._release if self._entered is None else self._entered[1].over or self._release

    @property
    def has_completed(self) -> bool:
        """Whether the server has accepted that the work succeeded."""
        return self._entered is not None and self._entered[1].has_completed

    def cancel(self, error: JobCancelled) -> None:
        """The job has been cancelled: tell the run."""
        if self._entered is not None:
            self._entered[1].cancel(error)

    def on_over(self, call: Callable[[], object]) -> None:
        """Call this when it becomes known that the attempt is over while its block goes on."""
        assert self._entered is not None
        self._entered[1].on_over = call

    def release(self, reason: str) -> bool:
        """Give the attempt back once the block is cancelled. Returns whether the block is to be cancelled."""
        if self._entered is not None:
            reports = self._entered[1]
            if reports.ending is not None or reports.over is not None:
                return False
            reports.cancelled.set()
        self._release = Release(reason=reason)
        return True

    async def _begin(self) -> Run:
        job = await self._start()
        sender = self._client._report_sender
        reports, ended = sender.add(job, await self._client._heartbeat_s(job, self._options))
        run = Run(job, reports, sender.report, self._client._invoke_all)
        self._entered = run, reports, ended
        return run

    async def _end(self, error: BaseException | None) -> None:
        assert self._entered is not None
        run, reports, _ = self._entered
        if self._release is not None and isinstance(error, asyncio.CancelledError):
            error = self._release
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
        patience_s = None if self._release is None else INTERRUPTED_PATIENCE_S
        deliveries = finish_run(run, error, self._options, patience_s)
        try:
            delivery = next(deliveries)
            while True:
                delivery = deliveries.send(await self._client._report_sender.deliver(reports, ended, delivery))
        except StopIteration:
            return None
        except (SystemExit, KeyboardInterrupt) as interrupt:
            return interrupt
