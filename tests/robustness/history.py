"""Recorded histories as plain data: what clients asked and were told, what watchers were sent, what was left.

A history is written by a run (or by hand) and read by ``validators``; neither needs a server. It goes to JSON and back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
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


@dataclass(slots=True)
class Watcher:
    """One watcher, which may have opened its watch many times."""

    name: str
    job_ids: tuple[str, ...] = ()
    job_types: tuple[str, ...] = ()
    source_ids: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    latest_progress: bool = False
    streams: list[Stream] = field(default_factory=list)

    def wants(self, event: EventRecord, stream: Stream) -> bool:
        """Whether an event is one of those asked for."""
        job_ids = stream.job_ids or self.job_ids
        return (
            (not job_ids or event.job_id in job_ids)
            and (not self.job_types or event.job_type in self.job_types)
            and (not self.source_ids or event.source_id in self.source_ids)
            and (not self.types or event.type in self.types)
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
    """Other jobs that a Create names."""
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


def load(path: Path) -> History:
    """A history that was written down."""
    data = json.loads(path.read_text("utf-8"))
    data["calls"] = [_made(Call, call) for call in data["calls"]]
    data["acquires"] = [_acquiring(acquiring) for acquiring in data.get("acquires", ())]
    data["policies"] = _policies(data.get("policies", {}))
    data["configured"] = [
        Configured(each["after"], [_policies(some) for some in each["policies"]]) for each in data.get("configured", ())
    ]
    data["pauses"] = [Pausing(**pausing) for pausing in data.get("pauses", ())]
    data["calm"] = tuple(data["calm"]) if data.get("calm") else None
    data["watchers"] = [_watcher(watcher) for watcher in data["watchers"]]
    data["log"] = [LogEntry(**{**entry, "event": EventRecord(**entry["event"])}) for entry in data["log"]]
    data["memory"] = [MemorySample(**sample) for sample in data["memory"]]
    return History(**data)


def _policies(data: Mapping[str, Any]) -> Policies:
    def policy(of_type: Mapping[str, Any]) -> Policy:
        rates = {name: Rate(**of_type[name]) for name in ("rate", "lane_rate") if of_type.get(name)}
        return Policy(**{**of_type, **rates})

    return {name: policy(of_type) for name, of_type in data.items()}


def _acquiring(data: Mapping[str, Any]) -> Acquiring:
    answers = [
        Answer(answer["invoked"], answer["returned"], [(job_id, attempt) for job_id, attempt in answer["jobs"]])
        for answer in data["answers"]
    ]
    acquiring: Acquiring = _made(Acquiring, {**data, "answers": answers})
    return acquiring


def _watcher(data: Mapping[str, Any]) -> Watcher:
    watcher: Watcher = _made(Watcher, {**data, "streams": [_stream(stream) for stream in data["streams"]]})
    return watcher


def _stream(data: Mapping[str, Any]) -> Stream:
    responses = [
        Response(
            **{
                **response,
                "events": [EventRecord(**event) for event in response["events"]],
                "jobs": [JobRecord(**job) for job in response["jobs"]],
            }
        )
        for response in data["responses"]
    ]
    stream: Stream = _made(Stream, {**data, "responses": responses})
    return stream


def _made(kind: type[Any], data: Mapping[str, Any]) -> Any:
    """A dataclass from JSON, which knows no tuples."""
    tuples = {item.name for item in fields(kind) if "tuple" in str(item.type)}
    return kind(**{key: tuple(value) if key in tuples and value is not None else value for key, value in data.items()})


def delivered(stream: Stream) -> list[EventRecord]:
    """Every event of a stream, in the order it came."""
    return [event for response in stream.responses for event in response.events]
