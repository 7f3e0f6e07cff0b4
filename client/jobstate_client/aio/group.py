"""``async with client.group(job_type) as group:``"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from jobstate_client.aio.cancellation import finish_despite_cancel
from jobstate_client.core.grouping import Members, cancel_call, hurried
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S
from jobstate_client.core.values import CreatedJob, Job, NewJob, Span

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient

log = logging.getLogger("jobstate_client")


class AsyncGroup(Members):
    """A group whose members the block creates. It is created when the block begins, and closed when it ends.

    If the block ends with an exception, or is cancelled, so is the group, and with it the members that are not final.
    """

    def __init__(self, client: AsyncClient, new: NewJob, patience: Span) -> None:
        super().__init__(new, patience)
        self._client = client

    async def create(self, job_type: str | NewJob, *, timeout: Span | None = None, **fields: Any) -> Job:  # noqa: ASYNC109
        """Create a member, with the arguments of ``AsyncClient.create``."""
        with self._creating():
            return await self._client.create(self._member(job_type, fields), timeout=timeout)

    async def create_many(
        self,
        jobs: Iterable[NewJob],
        *,
        timeout: Span | None = None,  # noqa: ASYNC109
    ) -> tuple[CreatedJob, ...]:
        """Create members in this order, as ``create_many`` of the client does."""
        with self._creating():
            return await self._client.create_many(self._members(jobs), timeout=timeout)

    async def __aenter__(self) -> Self:
        creation = self._client._invoke(self._create_call())
        task, cancellation = await finish_despite_cancel(creation, INTERRUPTED_PATIENCE_S)
        if cancellation is None:
            self._enter(task.result())
            return self
        await self._take_back(task, cancellation)
        raise cancellation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        call = self._end_call(error)
        if call is None:
            return
        task, cancellation = await finish_despite_cancel(self._client._invoke(call), INTERRUPTED_PATIENCE_S)
        if task.cancelled():
            log.warning("the block of group %s was cancelled before the server answered: it may stay open", self.id)
        elif isinstance(problem := task.exception(), Exception):
            if error is None and cancellation is not None:
                cancellation.add_note(f"the group {self.id} may stay open: {problem}")
            else:
                self._not_ended(error, problem)
        if cancellation is not None:
            raise cancellation

    async def _take_back(self, creation: asyncio.Task[Job], cancellation: asyncio.CancelledError) -> None:
        """Cancel a group whose block is not entered: nobody would close it."""
        problem: BaseException | str | None = "the server did not answer"
        if not creation.cancelled() and (problem := creation.exception()) is None and not creation.result().existing:
            call = hurried(cancel_call(creation.result(), cancellation))
            task, _ = await finish_despite_cancel(self._client._invoke(call), INTERRUPTED_PATIENCE_S)
            problem = "the server did not answer" if task.cancelled() else task.exception()
        if problem is not None:
            log.warning("cancelled while a group was created, which may stay open: %s", problem)
