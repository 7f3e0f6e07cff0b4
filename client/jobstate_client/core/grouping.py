"""What the groups of both clients have in common: ``with client.group(...) as group:``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from jobstate_client.core.states import OnExcess
from jobstate_client.core.values import GroupPolicy, Job, NewJob

_REASON = "the block that creates its members failed: "


def new_group(job_type: str, tolerated_failures: int, on_excess: OnExcess | str, fields: dict[str, Any]) -> NewJob:
    """A group of this type.

    Raises:
        TypeError: one of the fields is none of a ``NewJob``.
        ValueError: there is no such ``on_excess``.
    """
    policy = GroupPolicy(tolerated_failures, OnExcess.parse(on_excess))
    return NewJob(job_type, group=policy, **fields)


class Members:
    """A group whose members a block creates."""

    def __init__(self, new: NewJob) -> None:
        self._new = new
        self._job: Job | None = None

    @property
    def job(self) -> Job:
        """The group as it was created.

        Raises:
            RuntimeError: the block has not begun.
        """
        if self._job is None:
            raise RuntimeError("the group is created when its block begins: with client.group(...) as group:")
        return self._job

    @property
    def id(self) -> str:
        """The group's id."""
        return self.job.id

    def _members(self, jobs: Iterable[NewJob]) -> Iterator[NewJob]:
        return (self._member(job) for job in jobs)

    def _member(self, job_type: str | NewJob, fields: dict[str, Any] | None = None) -> NewJob:
        if isinstance(job_type, NewJob):
            if fields:
                raise TypeError("a NewJob has all the fields of a job: set them in it")
            new = job_type
        else:
            new = NewJob(job_type, **(fields or {}))
        if new.group_id not in ("", self.id):
            raise TypeError(f"a member of {self.id} cannot also be one of {new.group_id}")
        return replace(new, group_id=self.id)


def reason_of(error: BaseException) -> str:
    """Why a group is cancelled whose block has failed."""
    return _REASON + type(error).__name__
