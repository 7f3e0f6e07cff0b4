"""How new jobs are related to others: what they need, the groups they are in, and the attempts that create them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.errors import AttemptSuperseded, GroupClosed, InvalidField, JobNotFound, NotAGroup
from jobstate_server.domain.groups import DEPTH_MAX, GroupPolicy, group_of, own_ref
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import Need, NewNeed, standing
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.cancel import end_as_cancelled
from jobstate_server.domain.rules.claim import begin_claimed
from jobstate_server.domain.rules.context import Draft
from jobstate_server.domain.rules.ready import wait_for_needs
from jobstate_server.domain.wait_order import GroupPath, from_text, latest, may_wait, to_text
from jobstate_server.domain.waiting import CancelCause, Priority


class Relating:
    """Relates the jobs that one command creates to those that are there, and to those that it creates before them."""

    def __init__(self, view: View) -> None:
        self.needs: list[NewNeed] = []
        """The needs of the jobs created so far."""
        self._view = view
        self._made: dict[str, Job] = {}
        self._paths: dict[str, GroupPath] = {}
        """The places of the groups among these, in the order in which groups end."""
        self._needed: dict[str, Job] = {}
        """Stored jobs that are needed for the first time."""

    def needed(self) -> list[Change]:
        """The changes of the stored jobs that are needed for the first time. No watcher is told of them."""
        changes = []
        for job in self._needed.values():
            after = job.moved()
            after.needed = True
            changes.append(Change(job, after))
        return changes

    def made(self, change: Change, command: c.Create, path: str = "") -> Change:
        """Relate a new job, of which nobody knows yet.

        Args:
            path: what comes before the names of fields in errors.

        Raises:
            JobNotFound, NotAGroup, GroupClosed, AttemptSuperseded: with the fact ``field``.
            InvalidField
        """
        job, relations = change.after, command.relations
        if relations is not None:
            creator = None if relations.by is None else self._running(relations.by, command.caller, path)
            group = self._join(job, creator, command, path) if relations.group_id else None
            if relations.group is not None:
                around = () if group is None else self._path(group)
                if len(around) == DEPTH_MAX:
                    raise InvalidField("group_id", f"is {DEPTH_MAX} groups deep already")
                self._paths[job.id] = (*around, self._view.relations.next_key() + len(self._paths))
                change = _made_group(change, relations.group, len(around) + 1, command)
            elif relations.needs:
                change = self._with_needs(change, relations.needs, group, command, path)
        self._made[job.id] = change.after
        return change

    def _find(self, job_id: str, caller: Caller, field: str) -> Job:
        job = self._made.get(job_id) or self._view.jobs.get(job_id)
        if job is None or not caller.reach.admits(job.job_type, job.source_id):
            raise JobNotFound(job_id, field)
        return job

    def _running(self, by: c.AttemptRef, caller: Caller, path: str) -> Job:
        """The job whose running attempt creates another."""
        job = self._find(by.job_id, caller, f"{path}by.id")
        if job.state is not JobState.PROCESSING or job.attempt != by.attempt or job.group_depth:
            raise AttemptSuperseded(job.id, by.attempt, job.attempt, job.state.name, f"{path}by.attempt")
        return job

    def _join(self, job: Job, creator: Job | None, command: c.Create, path: str) -> Job:
        """Make a new job a member of the group that its command names, and return that group."""
        assert command.relations is not None
        group_id, field = command.relations.group_id, f"{path}group_id"
        group = self._find(group_id, command.caller, field)
        if not group.group_depth:
            raise NotAGroup(group_id, field)
        by_member = creator is not None and group_of(creator) == own_ref(group)
        # A group that the command itself makes is open.
        why = "" if group_id in self._made else self._view.relations.refusal_to_add(group, by_member=by_member)
        if why:
            raise GroupClosed(group_id, why, field)
        job.group_id = group.id
        job.group_key = group.create_sequence or None
        return group

    def _with_needs(
        self, change: Change, needs: Sequence[Need], group: Job | None, command: c.Create, path: str
    ) -> Change:
        """Let a new job wait for what it needs. It is cancelled at once if that cannot be met any more.

        Args:
            group: that it is a member of, if any.
        """
        job = change.after
        parents = [
            self._find(need.job_id, command.caller, f"{path}needs[{place}].job_id") for place, need in enumerate(needs)
        ]
        found = standing((need, parent.state) for need, parent in zip(needs, parents, strict=True))
        awaited = {place: self._awaited(parents[place]) for place in found.open}
        if group is not None:
            _refuse_circles(self._path(group), awaited)
        job.needs_count = len(parents)
        for place, (need, parent) in enumerate(zip(needs, parents, strict=True)):
            is_final = parent.state.is_final
            self.needs.append(NewNeed(job.id, place, need, parent.state if is_final else None))
            # Also one that has ended: it is not deleted while the new job may still read its result.
            if not parent.needed and not (is_final and found.impossible):
                self._mark(parent)
        if found.impossible:
            draft = Draft(job, command, job.create_time)
            end_as_cancelled(draft, CancelCause.NEED, found.impossible)
            return _created(change, draft)
        if found.open:
            wait_for_needs(job, len(found.open))
            last = latest(awaited.values())
            job.awaited_group = None if last is None else to_text(last)
        return change

    def _path(self, group: Job) -> GroupPath:
        return self._paths.get(group.id) or self._view.relations.path(group)

    def _awaited(self, job: Job) -> GroupPath | None:
        """The last group that waiting for a job is waiting for."""
        if job.group_depth:
            return self._path(job)
        return from_text(job.awaited_group) if job.awaited_group is not None and job.open_needs else None

    def _mark(self, parent: Job) -> None:
        if parent.id in self._made:
            # Nobody else has it yet.
            self._made[parent.id].needed = True
        else:
            self._needed[parent.id] = parent


def _refuse_circles(group: GroupPath, awaited: Mapping[int, GroupPath | None]) -> None:
    """Refuse a member that waits for its own group, or could come to through others.

    Args:
        awaited: the last group that each of its needs waits for, by their place.
    """
    for place, path in awaited.items():
        if not may_wait(group, path):
            raise InvalidField(
                f"needs[{place}].job_id",
                "is or waits for the group that this job is to be in, one around that, or a younger one; as groups wait"
                " for their members, some would wait for each other",
            )


def _made_group(change: Change, policy: GroupPolicy, depth: int, command: c.Create) -> Change:
    """Make a new job a group, which runs from the start. It has no limits and no place in the order of hand-outs."""
    job = change.after
    job.group_depth = depth
    job.tolerated_failures, job.on_excess = policy.tolerated_failures, int(policy.on_excess)
    job.max_retries, job.timeout = 0, None
    job.lane, job.level = "", Priority.NORMAL
    draft = Draft(job, command, job.create_time)
    begin_claimed(draft, "")
    return _created(change, draft)


def _created(change: Change, draft: Draft) -> Change:
    """The creation of a job and the step that follows at once, as one change."""
    return Change(None, draft.after, (*change.events, *draft.events), request=change.request)
