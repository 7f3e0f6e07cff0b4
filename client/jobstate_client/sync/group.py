"""``with client.group(job_type) as group:``"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from jobstate_client.core.grouping import Members, reason_of
from jobstate_client.core.values import CreatedJob, Job, NewJob, Span

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client


class Group(Members):
    """A group whose members the block creates. It is created when the block begins, and closed when it ends.

    If the block ends with an exception, the group is cancelled, and with it the members that are not final.
    """

    def __init__(self, client: Client, new: NewJob) -> None:
        super().__init__(new)
        self._client = client

    def create(self, job_type: str | NewJob, *, timeout: Span | None = None, **fields: Any) -> Job:
        """Create a member, with the arguments of ``Client.create``."""
        return self._client.create(self._member(job_type, fields), timeout=timeout)

    def create_many(self, jobs: Iterable[NewJob], *, timeout: Span | None = None) -> tuple[CreatedJob, ...]:
        """Create up to 1,000 members in this order: all of them, or none."""
        return self._client.create_many(self._members(jobs), timeout=timeout)

    def __enter__(self) -> Self:
        self._job = self._client.create(self._new)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._client.close_group(self)
            return
        try:
            self._client.cancel(self, reason_of(error))
        except Exception as problem:
            error.add_note(f"the group {self.id} could not be cancelled: {problem}")
