"""The log replayed by needs and groups: what each job waits for, and what has become of the members of each group.

Events do not carry needs, nor the attempt that creates a job. So whoever creates one in a run repeats both in its
metadata: ``needs``, the condition by the id of the needed job, and ``by``, that attempt.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .history import FINAL_STATES, LogEntry
from .world import World, is_group

TOLERATES_ANY = -1

TOKENS = "estimated_tokens"


def is_met(condition: str, state: str) -> bool:
    """Whether a job that ended in a final state satisfies a need."""
    return condition == "FINAL" or (state == "COMPLETED") is (condition == "COMPLETED")


@dataclass(slots=True)
class Child:
    """A job with needs."""

    queued: LogEntry
    needs: dict[str, str]
    """The condition by the id of the needed job."""
    open: set[str] = field(default_factory=set)
    """The needed jobs that are not final."""
    impossible: set[str] = field(default_factory=set)
    """Those that have ended in another way than was needed."""
    resolved: int = 0
    """The sequence since which all of them are final, or one of them makes the job impossible. 0: neither is so."""
    ready: LogEntry | None = None
    """The event that told that it could be begun."""
    end: LogEntry | None = None


@dataclass(slots=True)
class Members:
    """A group."""

    queued: LogEntry
    around: str = ""
    """The group that it is a member of."""
    jobs: dict[str, str] = field(default_factory=dict)
    """The state of each member, also of those that were deleted."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Of each member, also of those of groups within."""
    stopped: int = 0
    """The sequence of the event since which no member may be handed out. 0: they may."""
    latest: int = 0
    """The sequence of the last event that made a member final."""
    end: LogEntry | None = None

    @property
    def unfinished(self) -> list[str]:
        """The members that are not final."""
        return [job_id for job_id, state in self.jobs.items() if state not in FINAL_STATES]

    @property
    def counts(self) -> Counter[str]:
        """How many members are in each state."""
        return Counter(self.jobs.values())

    @property
    def is_exceeded(self) -> bool:
        """Whether more members have failed than is tolerated."""
        counts = self.counts
        tolerated = int(self.queued.job["group"].get("tolerated_failures", 0))
        return tolerated != TOLERATES_ANY and counts["PERMANENTLY_FAILED"] + counts["CANCELLED"] > tolerated

    @property
    def cancels(self) -> bool:
        """Whether too many failures cancel the other members."""
        return bool(self.queued.job["group"].get("on_excess") == "ON_EXCESS_CANCEL")


def asked(entry: LogEntry) -> dict[str, Any]:
    """What the creator of a job has put into its metadata. Of a recreated one they are about the job before it."""
    metadata: dict[str, Any] = {} if "recreated_from" in entry.job else entry.job.get("metadata", {})
    return metadata


class Relations:
    """All jobs with needs and all groups, before each event."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.latest: dict[str, LogEntry] = {}
        """The last event of each job that is stored."""
        self.children: dict[str, Child] = {}
        self.groups: dict[str, Members] = {}
        self._needed: dict[str, list[Child]] = defaultdict(list)

    def events(self, through: int | None = None) -> Iterator[LogEntry]:
        """Every event, up to a sequence. While one is looked at, everything is as it was before it."""
        for entry in self._world.history.log:
            if through is not None and entry.event.sequence > through:
                return
            yield entry
            self._apply(entry)

    def at(self, sequence: int) -> Relations:
        """Replay everything up to a sequence."""
        for _ in self.events(sequence):
            pass
        return self

    def needed_by(self, job_id: str) -> list[Child]:
        """The jobs that need a job."""
        return self._needed.get(job_id, [])

    def around(self, group_id: str) -> Iterator[Members]:
        """A group and those around it, the nearest first."""
        while group_id in self.groups:
            yield self.groups[group_id]
            group_id = self.groups[group_id].around

    def stopping(self, entry: LogEntry) -> Members | None:
        """The nearest group around a job that is stopping."""
        return next((group for group in self.around(entry.job.get("group_id", "")) if group.stopped), None)

    def standing(self, needs: dict[str, str]) -> Child | None:
        """What a job with these needs would wait for now. None when one of them is not there."""
        if not needs.keys() <= self.latest.keys():
            return None
        child = Child(self.latest[next(iter(needs))], needs)
        for job_id, condition in needs.items():
            state = self.latest[job_id].event.state
            if state not in FINAL_STATES:
                child.open.add(job_id)
            elif not is_met(condition, state):
                child.impossible.add(job_id)
        return child

    def _apply(self, entry: LogEntry) -> None:
        job_id, type_ = entry.event.job_id, entry.event.type
        if type_ == "DELETED":
            self.latest.pop(job_id, None)
            return
        if type_ == "QUEUED":
            self._create(entry)
        ends = entry.event.state in FINAL_STATES and entry.previous not in FINAL_STATES
        self.latest[job_id] = entry
        if ends:
            self._end(entry)
        child = self.children.get(job_id)
        if child is not None and type_ == "READY":
            child.ready = entry
        group_id = entry.job.get("group_id", "")
        if group_id in self.groups:
            self._count(self.groups[group_id], entry, ends=ends)

    def _create(self, entry: LogEntry) -> None:
        job_id = entry.event.job_id
        needs = asked(entry).get("needs")
        if needs:
            child = self.standing(needs) or Child(entry, needs)
            child.queued = entry
            child.resolved = 0 if child.open and not child.impossible else entry.event.sequence
            self.children[job_id] = child
            for needed in needs:
                self._needed[needed].append(child)
        if is_group(entry):
            self.groups[job_id] = Members(entry, entry.job.get("group_id", ""))

    def _end(self, entry: LogEntry) -> None:
        job_id, sequence = entry.event.job_id, entry.event.sequence
        for child in self._needed.get(job_id, ()):
            if job_id in child.open:
                child.open.discard(job_id)
                if not is_met(child.needs[job_id], entry.event.state):
                    child.impossible.add(job_id)
                if not child.resolved and (child.impossible or not child.open):
                    child.resolved = sequence
        if job_id in self.children:
            self.children[job_id].end = entry
        group = self.groups.get(job_id)
        if group is not None:
            group.end = entry
            if entry.event.state == "CANCELLED":
                group.stopped = group.stopped or sequence

    def _count(self, group: Members, entry: LogEntry, *, ends: bool) -> None:
        job_id, sequence = entry.event.job_id, entry.event.sequence
        group.jobs[job_id] = entry.event.state
        if not is_group(entry):
            for each in self.around(entry.job["group_id"]):
                each.tokens[job_id] = int(entry.job.get(TOKENS, 0))
        if ends:
            group.latest = sequence
            if group.cancels and group.is_exceeded:
                group.stopped = group.stopped or sequence


class Stops:
    """Since when jobs may not be handed out because a group around them is stopping."""

    def __init__(self, world: World) -> None:
        self._relations = Relations(world).at(world.head)

    def since(self, entry: LogEntry) -> int | None:
        """The sequence of the event since which a job may not be. None: it may."""
        found = self._relations.around(entry.job.get("group_id", ""))
        return min((group.stopped for group in found if group.stopped), default=None)
