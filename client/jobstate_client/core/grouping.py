"""What the groups of both clients have in common: ``with client.group(...) as group:``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jobstate_client.core import creating
from jobstate_client.core.calls import Call
from jobstate_client.core.documents import seconds
from jobstate_client.core.operations import cancel, close_group, id_of
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S
from jobstate_client.core.states import OnExcess
from jobstate_client.core.values import GroupPolicy, Job, NewJob, Span
from jobstate_client.errors import GroupClosed, GroupExists, TransitionNotAllowed

_REASON = "the block that creates its members failed: "
_ENDS_ITSELF = {"stopping", "final"}
"""Why a group takes no more members that ends without its block, or has ended."""


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

    def __init__(self, new: NewJob, patience: Span) -> None:
        self._new = new
        self._patience_s = seconds(patience, "patience")
        if self._patience_s < 0:
            raise ValueError("patience must be 0 seconds or more")
        self._creation: Call[Job] | None = None
        self._job: Job | None = None
        self._ends_itself = False
        """Whether the server has refused a member because the group is stopping, or has ended."""

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

    def _create_call(self) -> Call[Job]:
        """The call that creates the group."""
        if self._creation is not None:
            raise RuntimeError("a group has one block: call client.group again for another group")
        self._creation = creating.create(self._new)
        return self._creation

    def _enter(self, job: Job) -> None:
        """Begin the block with what was created. Raises GroupExists if it was there before: it is another's."""
        if job.existing:
            raise _exists(job, self._new)
        self._job = job

    def _end_call(self, error: BaseException | None) -> Call[Job] | None:
        """The call that ends the block: it closes the group, or cancels it if the block has failed.

        None if nobody has to: a group that is stopping, or has ended, keeps the verdict of its members.
        """
        if error is not None and self._ends_itself:
            return None
        call = close_group(self) if error is None else cancel_call(self.job, error)
        is_interrupted = error is not None and not isinstance(error, Exception)
        if self._patience_s:
            call = replace(call, timeout=self._patience_s, through_outages=True)
        return hurried(call) if is_interrupted else call

    def _not_ended(self, error: BaseException | None, problem: Exception) -> None:
        """The call that ends the block has failed. Raises that problem, unless the block's own error says more."""
        if error is None:
            problem.add_note(f"whether the group {self.id} is closed is unknown: close it with close_group")
            raise problem
        if isinstance(problem, TransitionNotAllowed) and problem.state.is_final:
            # Somebody else has cancelled it.
            return
        BaseException.add_note(error, f"the group {self.id} could not be cancelled, and waits: {problem}")

    @contextmanager
    def _creating(self) -> Iterator[None]:
        """Create members. Notes that the group takes no more because it ends by itself."""
        try:
            yield
        except GroupClosed as refusal:
            if refusal.group_id == self.id and refusal.why in _ENDS_ITSELF:
                self._ends_itself = True
            raise

    def _members(self, jobs: Iterable[NewJob]) -> Iterator[NewJob]:
        return (self._member(job) for job in creating.new_jobs(jobs))

    def _member(self, job_type: str | NewJob, fields: dict[str, Any] | None = None) -> NewJob:
        if isinstance(job_type, NewJob):
            if fields:
                raise TypeError("a NewJob has all the fields of a job: set them in it")
            new = job_type
        else:
            new = NewJob(job_type, **(fields or {}))
        group_id = id_of(new.group_id, "group_id")
        if group_id not in ("", self.id):
            raise TypeError(f"a member of {self.id} cannot also be one of {group_id}")
        return replace(new, group_id=self.id, by=new.by or self._new.by)


def cancel_call(job: Job, error: BaseException) -> Call[Job]:
    """The call that cancels a group whose block has failed."""
    return cancel(job, _REASON + type(error).__name__)


def hurried(call: Call[Job]) -> Call[Job]:
    """The same call for a program that was interrupted: nobody who stops a program waits long."""
    patience_s = INTERRUPTED_PATIENCE_S if call.timeout is None else seconds(call.timeout)
    return replace(call, timeout=min(patience_s, INTERRUPTED_PATIENCE_S), through_outages=True)


def _exists(job: Job, new: NewJob) -> GroupExists:
    """The error of a block whose unique key another job has."""
    if job.group is None:
        advice = f"{job.id} is no group: choose another unique_key"
    else:
        advice = (
            f"to add to it, create members with group_id={job.id!r}, and call close_group({job.id!r}) when it has all"
        )
    return GroupExists(
        f"the unique_key {new.unique_key!r} belongs to {job.id} already, which another call created, so this block "
        f"does not close or cancel it; {advice}",
        {"job_id": job.id},
    )
