"""What every rule gets besides the job and the command, and how it builds its change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobstate_server.domain.batch_view import View
from jobstate_server.domain.commands import Command, JobCommand
from jobstate_server.domain.errors import TransitionNotAllowed
from jobstate_server.domain.events import Detail, Event, EventType
from jobstate_server.domain.job import Attempt, Document, Job, JobState
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


class Draft:
    """A job between the steps of one command, with the events so far."""

    __slots__ = ("before", "command", "ended", "events", "job", "now")

    def __init__(self, job: Job, command: JobCommand, now: int) -> None:
        self.before = self.job = job
        self.command = command
        self.now = now
        self.events: list[Event] = []
        self.ended: Attempt | None = None

    def take(self, trigger: Trigger, asked_as: Trigger | None = None) -> JobState:
        """The state that ``trigger`` leads to. Raises TransitionNotAllowed, which names the caller's trigger."""
        target = next_state(trigger, self)
        if target is None:
            why = "" if self.job.state is not JobState.PROCESSING else " and its attempt has a worker"
            raise TransitionNotAllowed(
                self.job.id,
                self.job.state.name,
                (asked_as or trigger).value,
                allowed_triggers(self),
                why if asked_as is Trigger.START else "",
            )
        return target

    def set(self, **changes: Any) -> None:
        """Change fields of the job."""
        self.job = self.job.evolve(update_time=self.now, **changes)

    def emit(self, type_: EventType, previous: JobState, detail: Detail | None = None, **flags: bool) -> None:
        """Add an event with the job as it is at this step."""
        self.events.append(Event(type_, self.now, self.command.caller.actor, previous, self.job, detail, **flags))

    def change(self) -> Change:
        """All changes of the steps."""
        return Change(self.before, self.job, tuple(self.events), self.ended, False, None, self.command.request)


JobRules = dict[type[Command], Callable[[RuleContext, Any, Any, int], Change | None]]
"""The rules of commands that read and change one job."""

PlanRules = dict[type[Command], Callable[[RuleContext, Any, View], Plan]]
"""The rules of all other commands."""
