"""Recorded histories as plain data: what clients asked and were told, what watchers were sent, what was left.

A history is written by a run (or by hand) and read by ``validators``; neither needs a server. It goes to JSON and back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SNAPSHOT, SYNCED, EVENTS, HEARTBEAT, DRAINING = "SNAPSHOT", "SYNCED", "EVENTS", "HEARTBEAT", "DRAINING"
"""Kinds of responses."""

ANSWERED, REFUSED, UNKNOWN = "answered", "refused", "unknown"
"""Outcomes of calls. Unknown: no answer came, so the change may or may not have been made."""

FINAL_STATES = frozenset({"COMPLETED", "PERMANENTLY_FAILED", "CANCELLED"})
ENDING_TYPES = frozenset({"COMPLETED", "PERMANENTLY_FAILED", "CANCELLED", "DELETED"})
AFTER_THE_END = frozenset({"USAGE", "DELETED"})
"""Types of events that can follow the one that made a job final."""


@dataclass(slots=True)
class EventRecord:
    """An event as somebody saw it."""

    sequence: int
    type: str
    job_id: str
    version: int
    state: str
    job_type: str = ""
    source_id: str = ""
    metadata: bool = False
    """Whether it carries metadata."""
    digest: int = 0
    """Of the whole event: two who saw the same event have the same digest."""
    labels: tuple[str, ...] = ()
    """Of the job, each as key=value."""
    erased: bool = False
    """Whether Erase has taken from it what it said of the job."""


@dataclass(slots=True)
class LogEntry:
    """An event of the log, with everything it says of the job."""

    event: EventRecord
    previous: str = ""
    """State before, empty for a job that came to be."""
    attempt: int = 0
    decision: str = ""
    """Of ``.failed``: whether it is retried."""
    marker: str = ""
    """What the call that made this event put into it, so that the call can be found in the log."""
    job: dict[str, Any] = field(default_factory=dict)
    """The job in the event."""
    time: int = 0
    """When it was, in microseconds of the store's time."""
    actor: str = ""
    """Who made it: ``server`` what it did by itself."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What this kind of event adds to the job."""
    left: EventRecord | None = None
    """The event as Erase has left it, if it was written before: the rest of this entry is what it was until then."""
    remains: dict[str, Any] = field(default_factory=dict)
    """Everything that an erased event says."""

    @property
    def is_erased(self) -> bool:
        """Whether the log no longer has what the event said."""
        return self.event.erased or self.left is not None

    def __str__(self) -> str:
        """Enough to find it in the history that is kept."""
        event = self.event
        told = f"{event.sequence} {event.type} of {event.job_type} {event.job_id}, attempt {self.attempt}"
        return f"<{told}, {self.previous} to {event.state} at {self.time}>"


@dataclass(slots=True)
class JobRecord:
    """A job of a snapshot."""

    id: str
    version: int
    state: str
    job_type: str = ""
    source_id: str = ""


@dataclass(slots=True)
class Response:
    """One message of a watch. The cursor is opaque text."""

    kind: str
    cursor: str = ""
    events: list[EventRecord] = field(default_factory=list)
    jobs: list[JobRecord] = field(default_factory=list)
    at: float = 0.0
    """When it came, in seconds of the recorder's clock."""


@dataclass(slots=True)
class Stream:
    """One opening of a watch."""

    start: str
    """LATEST, EARLIEST or CURSOR."""
    cursor: str = ""
    resumed_from: tuple[int, int] | None = None
    """Stream and response, of the same watcher, whose cursor this is. None: it came from elsewhere."""
    follow: bool = True
    snapshot: bool = False
    until_final: bool = False
    job_ids: tuple[str, ...] = ()
    """Overrides the watcher's, for one that watches other jobs each time."""
    responses: list[Response] = field(default_factory=list)
    code: str = ""
    """How it ended: a gRPC code, or LEFT when the watcher broke off by itself."""
    reason: str = ""
    oldest_cursor: str = ""
    opened: float = 0.0
    """When, in seconds of the recorder's clock."""


@dataclass(slots=True)
class Watcher:
    """One watcher, which may have opened its watch many times."""

    name: str
    job_ids: tuple[str, ...] = ()
    job_types: tuple[str, ...] = ()
    source_ids: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """Each as key=value."""
    latest_progress: bool = False
    streams: list[Stream] = field(default_factory=list)

    def wants(self, event: EventRecord, stream: Stream) -> bool:
        """Whether an event is one of those asked for."""
        job_ids = stream.job_ids or self.job_ids
        # Of an erased job nothing tells the source and the labels: that it is deleted is told to all who ask by these.
        is_for_all = event.erased and event.type == "DELETED"
        return (
            (not job_ids or event.job_id in job_ids)
            and (not self.job_types or event.job_type in self.job_types)
            and (not self.types or event.type in self.types)
            and (is_for_all or not self.source_ids or event.source_id in self.source_ids)
            and (is_for_all or set(self.labels) <= set(event.labels))
        )


@dataclass(slots=True)
class Call:
    """One call of a client, with its repeats."""

    rpc: str
    job_id: str
    outcome: str
    request_id: str = ""
    marker: str = ""
    """Found again in the event that this call makes; used by no other call."""
    tries: int = 1
    invoked: float = 0.0
    returned: float = 0.0
    code: str = ""
    reason: str = ""
    version: int = 0
    attempt: int = 0
    state: str = ""
    changes: bool = True
    """Whether it makes an event when it is answered: reads and signs of life do not."""
    job_ids: tuple[str, ...] = ()
    """Of a batch: every job, in order."""
    names: tuple[str, ...] = ()
    """Other jobs that a Create names, or the one that a Recreate does."""
    existing: bool = False
    """Whether the answer was a job that was there already, because it has the unique key."""
    poisoned: str = ""
    """Of an update in a stream: whether it cannot be accepted ``itself``, or was sent ``beside`` one that cannot."""


@dataclass(slots=True)
class Answer:
    """The answer to one try of an Acquire."""

    invoked: float
    returned: float
    jobs: list[tuple[str, int]] = field(default_factory=list)
    """Id and attempt of each, in order."""


@dataclass(slots=True)
class Acquiring:
    """A call of Acquire, with its repeats."""

    worker: str
    """Given by no other call: so the attempts that this call claimed are found in the log."""
    job_types: tuple[str, ...]
    max_jobs: int = 1
    wait_s: float = 0.0
    request_id: str = ""
    outcome: str = UNKNOWN
    """That of the last try."""
    code: str = ""
    reason: str = ""
    tries: int = 0
    invoked: float = 0.0
    returned: float = 0.0
    is_streamed: bool = False
    """Whether it stood in a batch of StreamUpdates."""
    answers: list[Answer] = field(default_factory=list)
    """Of each try that was answered."""


@dataclass(slots=True)
class Pausing:
    """A try to pause a type or lane, or to let it go on."""

    job_type: str
    lane: str | None
    """None: the whole type."""
    paused: bool
    """Whether it is to be paused, and not to go on."""
    outcome: str = UNKNOWN
    head: int = 0
    """What the answer said: nothing later is handed out, or it goes on after this."""
    invoked: float = 0.0
    returned: float = 0.0


@dataclass(slots=True)
class BulkAnswer:
    """The answer to one call that changes many jobs."""

    invoked: float
    returned: float
    matched: int = 0
    done: int = 0
    skipped: int = 0
    more: bool = False
    limit_reached: bool = False


@dataclass(slots=True)
class Bulk:
    """All calls of RecreateMany, RetryMany or CancelMany with one request id."""

    rpc: str
    request_id: str
    states: tuple[str, ...] = ()
    job_types: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """Each as key=value."""
    source_id: str = ""
    worker: str = ""
    error_code: str = ""
    limit: int = 0
    """The most jobs to change. 0: any number."""
    marker: str = ""
    """The reason given to CancelMany."""
    is_alone: bool = False
    """Whether nobody else recreates jobs with these labels."""
    invoked: float = 0.0
    returned: float = 0.0
    """When the last call was over."""
    outcome: str = UNKNOWN
    """That of the last call."""
    code: str = ""
    reason: str = ""
    answers: list[BulkAnswer] = field(default_factory=list)
    """In the order in which they came, of calls of which some were made at the same time."""

    @property
    def is_over(self) -> bool:
        """Whether somebody was told that there is no more to do."""
        return any(not answer.more for answer in self.answers)

    def fits(self, entry: LogEntry) -> bool:
        """Whether a job has what is wanted of what never changes."""
        event = entry.event
        return (
            set(self.labels) <= set(event.labels)
            and (not self.job_types or event.job_type in self.job_types)
            and (not self.source_id or event.source_id == self.source_id)
        )


@dataclass(slots=True)
class Erasing:
    """A call of Erase, with its repeats."""

    job_id: str = ""
    source_id: str = ""
    outcome: str = UNKNOWN
    code: str = ""
    reason: str = ""
    tries: int = 0
    invoked: float = 0.0
    returned: float = 0.0
    jobs: int = 0
    """How many jobs the last answer said were deleted."""
    unfinished: int = 0
    """And how many were left."""


@dataclass(slots=True)
class Listing:
    """What List found in the end with one filter. The filter has the names of the fields of ListRequest."""

    wanted: dict[str, Any]
    job_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many hand-outs in a period of microseconds, of which ``burst`` may come at once."""

    count: int
    period: int
    burst: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What a server is told of a job type. Spans are microseconds."""

    base_delay: int = 1_000_000
    max_delay: int = 60_000_000
    jitter: float = 0.0
    max_retries: int = 3
    priority_step: int = 600_000_000
    concurrency: int = 0
    """How many attempts may be claimed. 0: any number."""
    lane_concurrency: int = 0
    holds_jobs: bool = False
    """Whether a job has its place in the lane also while it waits for its next attempt."""
    rate: Rate | None = None
    lane_rate: Rate | None = None

    @property
    def is_limited(self) -> bool:
        """Whether something limits how many jobs may run, or how fast they may be handed out."""
        return bool(self.concurrency or self.lane_concurrency or self.rate or self.lane_rate)


Policies = dict[str, Policy]
"""By job type. Types that are not named have the default."""


@dataclass(slots=True)
class Configured:
    """What the servers have gone by from some event on."""

    after: int
    """The sequence before the first event."""
    policies: list[Policies]
    """What each goes by: of all servers the same, but while they are restarted one after the other."""


@dataclass(slots=True)
class MemorySample:
    """What a server process used at a moment."""

    process: int
    kib: int


@dataclass(slots=True)
class History:
    """Everything about one run."""

    seed: str = ""
    store: str = "sqlite"
    """Or postgres, which can be taken away from a server that goes on."""
    policies: Policies = field(default_factory=dict)
    """What the servers went by at first."""
    configured: list[Configured] = field(default_factory=list)
    """And later: limits and priorities may change, retries may not."""
    releases_max: int = 1_000
    """How often a job may be given back."""
    calls: list[Call] = field(default_factory=list)
    acquires: list[Acquiring] = field(default_factory=list)
    pauses: list[Pausing] = field(default_factory=list)
    bulks: list[Bulk] = field(default_factory=list)
    erasings: list[Erasing] = field(default_factory=list)
    calm: tuple[float, float] | None = None
    """From when until when nothing was done to the servers, while the workers went on."""
    watchers: list[Watcher] = field(default_factory=list)
    log: list[LogEntry] = field(default_factory=list)
    """Every event there ever was, also those that retention has removed."""
    horizon: int = 0
    """The newest sequence that retention has removed in the end."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Every job as Get and List show it in the end."""
    stored: dict[str, int] = field(default_factory=dict)
    """What GetStats says in the end, of each ``job_type/STATE``."""
    totals: dict[str, float] = field(default_factory=dict)
    """And its sums: completed, permanently_failed, cancelled, retries, released, expired, running, tokens, and how many
    jobs wait, by reason."""
    settled: int = 0
    """The newest event at a moment at which nothing was due that ends of needed jobs and of members bring about."""
    left_due: list[str] = field(default_factory=list)
    """What was still due of that after a long time in which nobody made more."""
    needs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What Get says in the end of the needs of each job that has some: ``job_id``, ``condition``, and perhaps ``met``
    and ``state``."""
    listings: list[Listing] = field(default_factory=list)
    """What List finds in the end with each of some filters."""
    recounted: list[str] = field(default_factory=list)
    """What a recount of the store finds wrong with its counts."""
    positions: dict[str, int] = field(default_factory=dict)
    """The sequence that each cursor stands for."""
    memory: list[MemorySample] = field(default_factory=list)
    memory_growth_max_kib: int = 0
    faults: list[str] = field(default_factory=list)
    """What was done to the server, in order."""
    complaints: list[str] = field(default_factory=list)
    """Lines that servers logged of something nobody foresaw."""

    def save(self, path: Path) -> None:
        """Write it down."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), separators=(",", ":")), "utf-8")


def delivered(stream: Stream) -> list[EventRecord]:
    """Every event of a stream, in the order it came."""
    return [event for response in stream.responses for event in response.events]
