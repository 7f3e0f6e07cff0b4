"""What the rules see of the store while they decide a command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from jobstate_server.domain.bulk import BulkProgress
from jobstate_server.domain.commands import Request
from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import Attempt, FinishedJob, Job
from jobstate_server.domain.needs import OpenNeeds
from jobstate_server.domain.reads import Due, Finished, Named
from jobstate_server.domain.wait_order import GroupPath
from jobstate_server.domain.waiting import UniqueKey


class EarlierCall(NamedTuple):
    """An earlier call with the same request id."""

    request_id: str
    job_id: str
    job: Job | None
    """The job as it is now. None once it is deleted, even if another job has its id now."""
    attempt: int
    """The attempt that the call started or claimed. 0 if it did neither."""
    is_existing: bool = False
    """Whether the call was a Create that was answered with a job that was there before."""


class RelationsView(Protocol):
    """Needs and groups after the commands that are decided so far."""

    def due_groups(self, selection: Due) -> Sequence[str]:
        """The ids of the groups that a selection found when the transaction began."""

    def open_needs(self, parent: Job) -> OpenNeeds:
        """Needs for this job, which is due and final."""

    def group(self, group: Job) -> Group:
        """The counts of the group that a job is, after all changes of its members so far."""

    def stored_group(self, group: Job) -> Group:
        """The same, as they were when the transaction began. When all members of a closed group had ended by then,
        nobody can have added any since."""

    def path(self, group: Job) -> GroupPath:
        """The place of the group that a job is in the order in which groups end."""

    def next_key(self) -> int:
        """The key in paths, for now, of the next group that is made."""

    def refusal_to_add(self, group: Job, *, by_member: bool) -> str:
        """Why a group takes no more members: see ``groups.refusal_to_add``. If it does, it still does when the batch is
        written, or all is decided anew."""

    def stopping_group(self, member: Job) -> str:
        """The id of the nearest stopping group around a job. Empty if there is none; then that is still so when the
        batch is written, or all is decided anew."""

    def unfinished_members(self, group: Job) -> Sequence[str]:
        """The ids of some members of a due group, which is stopping, that are not final. Read and locked."""


class View(Protocol):
    """Jobs, attempts and request ids after the commands that are decided so far."""

    @property
    def now(self) -> int:
        """The time of the transaction, in microseconds."""

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The jobs that were read or changed, by id."""

    @property
    def relations(self) -> RelationsView:
        """The needs and groups."""

    def due(self, selection: Due) -> Sequence[str]:
        """The ids of the jobs that a selection found when the transaction began."""

    def finished(self, selection: Finished | Named) -> Sequence[FinishedJob]:
        """The jobs that a selection found when the transaction began, without those deleted since."""

    def ended_attempt(self, job_id: str, number: int) -> Attempt | None:
        """The record of an ended attempt."""

    def earlier_call(self, request: Request) -> EarlierCall | None:
        """The call that ``request`` repeats. Raises RequestIdReused when the id was used for another call."""

    def earlier_acquire(self, request: Request) -> Sequence[Job] | None:
        """The jobs of the Acquire that ``request`` repeats whose attempt is still claimed. None if there was none.

        Raises RequestIdReused when the id was used for another call.
        """

    def bulk_progress(self, request: Request) -> BulkProgress | None:
        """How far the bulk run of this request has come. None if there is none. Raises like ``earlier_call``."""

    def ready_jobs(self, job_types: Iterable[str]) -> Iterable[Job]:
        """The jobs of these types that can be handed out, the next one first."""

    def unique_holder(self, key: UniqueKey) -> Job | None:
        """The job that has this unique key."""

    def latest_instant(self, task: str) -> int | None:
        """The latest instant of a recurring entry that needs no job any more. None if another replica has the entry in
        hand, or it is not stored."""

    def check_request_room(self, count: int) -> None:
        """Raise Overloaded unless ``count`` more request ids can be stored."""
