"""``async with client.run(job) as run:``"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from jobstate_client.aio.cancellation import finish_despite_cancel
from jobstate_client.core.report_queue import AttemptReports
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, Run, RunOptions, finish_run, not_begun
from jobstate_client.core.values import Job

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient

log = logging.getLogger("jobstate_client")


class AsyncRunContext:
    """The context of a run: the attempt begins with the block and ends with it."""

    def __init__(self, client: AsyncClient, start: Callable[[], Awaitable[Job]], terms: RunOptions) -> None:
        self._client = client
        self._start = start
        self._terms = terms
        self._entered: tuple[Run, AttemptReports, asyncio.Event] | None = None

    async def __aenter__(self) -> Run:
        task, interruption = await finish_despite_cancel(self._begin(), INTERRUPTED_PATIENCE_S)
        if interruption is None:
            return task.result()
        if self._entered is not None:
            # It has been claimed, and nobody will do it: that is told, so that another does.
            await self._end(not_begun(interruption))
        raise interruption

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(error)

    async def _begin(self) -> Run:
        job = await self._start()
        reporter = self._client._reporter
        line, ended = reporter.join(job, await self._client._heartbeat_s(job, self._terms))
        run = Run(job, line, reporter.report)
        self._entered = run, line, ended
        return run

    async def _end(self, error: BaseException | None) -> None:
        assert self._entered is not None
        run, line, _ = self._entered
        try:
            task, interruption = await finish_despite_cancel(self._finish(error), INTERRUPTED_PATIENCE_S)
        finally:
            self._client._reporter.leave(line)
        if interruption is None:
            task.result()
            return
        if task.cancelled():
            log.warning("the end of job %s was not told: its task was cancelled, and the server did not answer", run.id)
        elif (trouble := task.exception()) is not None:
            interruption.add_note(f"{run.id}: {trouble}")
        raise interruption

    async def _finish(self, error: BaseException | None) -> None:
        assert self._entered is not None
        run, line, ended = self._entered
        conclusion = finish_run(run, error, self._terms)
        try:
            delivery = next(conclusion)
            while True:
                delivery = conclusion.send(await self._client._reporter.deliver(line, ended, delivery))
        except StopIteration:
            return
