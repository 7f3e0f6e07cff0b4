"""``async with client.run(job) as run:``"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from jobstate_client.aio.reporter import AsyncReporter
from jobstate_client.core.outbox import Line
from jobstate_client.core.running import Run, Terms, conclude
from jobstate_client.core.values import Job


class AsyncRunning:
    """The context of a run: the attempt begins with the block and ends with it."""

    def __init__(self, start: Callable[[], Awaitable[Job]], reporter: AsyncReporter, terms: Terms) -> None:
        self._start = start
        self._reporter = reporter
        self._terms = terms
        self._entered: tuple[Run, Line, asyncio.Event] | None = None

    async def __aenter__(self) -> Run:
        job = await self._start()
        line, ended = self._reporter.join(job, self._terms.heartbeat_s)
        run = Run(job, line, self._reporter.report)
        self._entered = run, line, ended
        return run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._entered is not None
        run, line, ended = self._entered
        conclusion = conclude(run, error, self._terms)
        try:
            delivery = next(conclusion)
            while True:
                delivery = conclusion.send(await self._reporter.deliver(line, ended, delivery))
        except StopIteration:
            return
        finally:
            self._reporter.leave(line)
