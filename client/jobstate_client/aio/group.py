"""``async with client.group(job_type) as group:``"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from jobstate_client.aio.cancellation import finish_despite_cancel
from jobstate_client.core.grouping import Members, reason_of
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S
from jobstate_client.core.values import CreatedJob, Job, NewJob, Span

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient


class AsyncGroup(Members):
    """A group whose members the block creates. It is created when the block begins, and closed when it ends.

    If the block ends with an exception, or is cancelled, so is the group, and with it the members that are not final.
    """

    def __init__(self, client: AsyncClient, new: NewJob) -> None:
        super().__init__(new)
        self._client = client

    async def create(self, job_type: str | NewJob, *, timeout: Span | None = None, **fields: Any) -> Job:  # noqa: ASYNC109
        """Create a member, with the arguments of ``AsyncClient.create``."""
        return await self._client.create(self._member(job_type, fields), timeout=timeout)

    async def create_many(
        self,
        jobs: Iterable[NewJob],
        *,
        timeout: Span | None = None,  # noqa: ASYNC109
    ) -> tuple[CreatedJob, ...]:
        """Create up to 1,000 members in this order: all of them, or none."""
        return await self._client.create_many(self._members(jobs), timeout=timeout)

    async def __aenter__(self) -> Self:
        self._job = await self._client.create(self._new)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._client.close_group(self)
            return
        task, cancellation = await finish_despite_cancel(self._cancel(error), INTERRUPTED_PATIENCE_S)
        if not task.cancelled() and (problem := task.exception()) is not None:
            error.add_note(f"the group {self.id} could not be cancelled: {problem}")
        if cancellation is not None:
            raise cancellation

    async def _cancel(self, error: BaseException) -> None:
        await self._client.cancel(self, reason_of(error))
