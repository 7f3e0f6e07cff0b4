"""What every rule gets besides the job and the command, and how it builds its change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobstate_server.domain.batch_view import View
from jobstate_server.domain.commands import Acquire, Command, JobCommand
from jobstate_server.domain.errors import TransitionNotAllowed
from jobstate_server.domain.events import Detail, Event, EventType
from jobstate_server.domain.job import Document, Job, JobState
from jobstate_server.domain.job_types import JobTypes, UnnamedTypes
from jobstate_server.domain.lifecycle import Trigger, allowed_triggers, next_state
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.reach import EVERYTHING

MergeDocuments = Callable[[Document, Document], Document]
"""Merges a patch into a document key by key, or raises InvalidField. The rules themselves do not read documents."""


class RuleContext:
    """The policies in force."""

    __slots__ = ("grace_until", "job_types", "merge", "random", "unnamed_types")

    def __init__(
        self,
        job_types: JobTypes,
        merge_documents: MergeDocuments,
        random: Callable[[], float],
        unnamed_types: UnnamedTypes,
    ) -> None:
        self.job_types = job_types
        self.merge = merge_documents
        self.random = random
        """Numbers from 0 up to 1, for the jitter of the backoff."""
        self.unnamed_types = unnamed_types
        self.grace_until = 0
        """No attempt is failed as stale before this time, because limits could not be enforced for a while."""


def visible_job(command: JobCommand, view: View) -> Job | None:
    """The job that a command names. None if it does not exist or is out of the caller's reach."""
    job = view.jobs.get(command.job_id)
    reach = command.caller.reach
    if reach is EVERYTHING or job is None or reach.admits(job.job_type, job.source_id):
        return job
    return None


class Draft(Change):
    """The change of a stored job in the making. ``after`` is the job as it is so far; only ``move`` and ``report``
    return it as one that may be set."""

    __slots__ = ("_command", "_is_shared", "now")

    def __init__(self, job: Job, command: JobCommand | Acquire, now: int) -> None:
        self.before = self.after = job
        self.now = now
        self.events: list[Event] = []
        self.ended = None
        self.is_report = False
        self.amended = None
        self.request = command.request
        self.is_existing = False
        self.hold = None
        self._command = command
        self._is_shared = True
        """Whether others have this very object, which must not be set any more: the view, or an event."""

    def take(self, trigger: Trigger, asked_as: Trigger | None = None) -> JobState:
        """The state that ``trigger`` leads to. Raises TransitionNotAllowed, which names the caller's trigger."""
        target = next_state(trigger, self.after, self.now)
        if target is None:
            job = self.after
            raise TransitionNotAllowed(
                job.id,
                job.state.name,
                (asked_as or trigger).value,
                allowed_triggers(job, self.now),
                self._why(trigger, asked_as),
                because="held back" if trigger is Trigger.START and job.held else "",
            )
        return target

    def _why(self, trigger: Trigger, asked_as: Trigger | None) -> str:
        """Why a step is not allowed, if the state alone does not say it."""
        if trigger in (Trigger.START, Trigger.EXPEDITE) and self.after.held:
            return " and waits for its needs" if self.after.open_needs else " and is delayed"
        is_taken = asked_as is Trigger.START and self.after.state is JobState.PROCESSING
        return " and its attempt has a worker" if is_taken else ""

    def move(self) -> Job:
        """The job, to set any fields of it until the next event is added. Its ``update_time`` is now."""
        if self._is_shared:
            self.after = self.after.moved()
            self.after.update_time = self.now
            self._is_shared = False
        return self.after

    def move_quietly(self) -> Job:
        """Like ``move``, for fields that nobody is told of: its ``update_time`` stays that of its last event."""
        updated = self.after.update_time
        job = self.move()
        job.update_time = updated
        return job

    def report(self) -> Job:
        """The job, to set fields in ``REPORTED`` until the next event is added."""
        if self._is_shared:
            self.is_report = self.after is self.before
            self.after = self.after.reported()
            self._is_shared = False
        return self.after

    def emit(
        self,
        type_: EventType,
        previous: JobState,
        detail: Detail | None = None,
        with_metadata: bool = False,
        with_result: bool = False,
    ) -> None:
        """Add an event with the job as it is at this step."""
        actor = self._command.caller.actor
        self.events.append(Event(type_, self.now, actor, previous, self.after, detail, with_metadata, with_result))
        self._is_shared = True


JobRules = dict[type[Command], Callable[[RuleContext, Any, Any, int], Change | None]]
"""The rules of commands that read and change one job."""

PlanRules = dict[type[Command], Callable[[RuleContext, Any, View], Plan | None]]
"""The rules of all other commands. None: a command of the server has been overtaken."""


def refuse_group(job: Job, trigger: Trigger, now: int) -> None:
    """Refuse what only workers do, if the job is a group. Raises TransitionNotAllowed."""
    if job.group_depth:
        allowed = allowed_triggers(job, now)
        raise TransitionNotAllowed(job.id, job.state.name, trigger.value, allowed, " and a group", because="group")
