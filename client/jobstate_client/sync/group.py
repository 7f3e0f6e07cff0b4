"""``with client.group(job_type) as group:``"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from jobstate_client.core.calls import Call
from jobstate_client.core.grouping import Members, cancel_call, hurried
from jobstate_client.core.values import CreatedJob, Job, NewJob, Span

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client

log = logging.getLogger("jobstate_client")


class Group(Members):
    """A group whose members the block creates. It is created when the block begins, and closed when it ends.

    If the block ends with an exception, the group is cancelled, and with it the members that are not final.
    """

    def __init__(self, client: Client, new: NewJob, patience: Span) -> None:
        super().__init__(new, patience)
        self._client = client

    def create(self, job_type: str | NewJob, *, timeout: Span | None = None, **fields: Any) -> Job:
        """Create a member, with the arguments of ``Client.create``."""
        with self._creating():
            return self._client.create(self._member(job_type, fields), timeout=timeout)

    def create_many(self, jobs: Iterable[NewJob], *, timeout: Span | None = None) -> tuple[CreatedJob, ...]:
        """Create members in this order, as ``create_many`` of the client does."""
        with self._creating():
            return self._client.create_many(self._members(jobs), timeout=timeout)

    def __enter__(self) -> Self:
        call = self._create_call()
        try:
            self._enter(self._client._invoke(call))
        except Exception:
            raise
        except BaseException as interrupt:
            self._take_back(call, interrupt)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        call = self._end_call(error)
        if call is None:
            return
        try:
            self._end(call)
        except Exception as problem:
            self._not_ended(error, problem)

    def _take_back(self, creation: Call[Job], interrupt: BaseException) -> None:
        """Cancel a group whose block is not entered: nobody would close it."""
        try:
            # The interrupted call may have succeeded: repeated, it returns the same group.
            job = self._job or self._client._invoke(hurried(creation))
            if not job.existing:
                self._client._invoke(hurried(cancel_call(job, interrupt)))
        except Exception as problem:
            log.warning("interrupted while a group was created, which may stay open: %s", problem)

    def _end(self, call: Call[Job]) -> None:
        try:
            self._client._invoke(call)
        except Exception:
            raise
        except BaseException as interrupt:
            log.warning("interrupted at the end of the block of group %s; interrupt again to give that up", self.id)
            try:
                self._client._invoke(hurried(call))
            except Exception as problem:
                interrupt.add_note(f"the group {self.id} may stay open: {problem}")
            raise
