"""What the tests of a store share: where stores live, and short ways to write and to read one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from hypothesis import HealthCheck, settings

from jobstate_server.clock import Clock
from jobstate_server.domain.commands import Request
from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.job import INT64_MAX, Attempt, AttemptOutcome, FinishedJob, Job, JobError, JobState
from jobstate_server.store.base import Reader, Store, Transaction
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import (
    ChangedJob,
    Changes,
    EventPage,
    JobSummary,
    NewEvent,
    StoredEvent,
    StoredRequest,
)
from jobstate_server.store.sqlite.store import SqliteStore

from ..support.postgres import postgres_server
from ..support.ready_stores import make_ready

PATIENCE_S = 30.0
"""How long a test waits for a thread or process before it fails; nothing that works comes near."""

UNBOUNDED = INT64_MAX
"""As ``bytes_max``: never in the way."""

MODERATELY = settings(max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
"""For properties: each example opens a store of its own on a disk that others share, so time says nothing."""

ANY_JOB = JobFilter()
ANY_EVENT = EventFilter()


class Home(Protocol):
    """Where one store lives. Opened again after a close, it is the same store."""

    def open(self, clock: Clock) -> Store:
        """Open the store, which is made if it is not there."""


class Backend(Protocol):
    """A kind of store."""

    def empty_home(self) -> Home:
        """A place in which no store has been yet."""

    def new_home(self) -> Home:
        """A place of its own, with a store in which nothing is."""


@dataclass(frozen=True)
class SqliteHome:
    """One file."""

    path: Path

    def open(self, clock: Clock) -> SqliteStore:
        return SqliteStore(self.path, clock)


class SqliteBackend:
    """Files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def empty_home(self) -> SqliteHome:
        self._count += 1
        return SqliteHome(self._directory / f"{self._count}.db")

    def new_home(self) -> SqliteHome:
        home = self.empty_home()
        make_ready(home.path)
        return home


@dataclass(frozen=True)
class PostgresHome:
    """One schema of a database."""

    url: str

    def open(self, clock: Clock) -> PostgresStore:
        return PostgresStore(self.url, clock)


class PostgresBackend:
    """Schemas of one server."""

    def __init__(self, directory: Path) -> None:
        del directory

    def empty_home(self) -> PostgresHome:
        return PostgresHome(postgres_server().new_store())

    def new_home(self) -> PostgresHome:
        return PostgresHome(postgres_server().ready_store())


BACKENDS: dict[str, Callable[[Path], Backend]] = {"sqlite": SqliteBackend, "postgres": PostgresBackend}
"""Every backend, by the name that its tests carry."""


@contextmanager
def opened(home: Home, clock: Clock) -> Iterator[Store]:
    """The store of this home, closed afterwards."""
    store = home.open(clock)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def reading(store: Store) -> Iterator[Reader]:
    """A reader, closed afterwards."""
    reader = store.open_reader()
    try:
        yield reader
    finally:
        reader.close()


def key_of(job_id: str) -> int:
    """The key of ``a_job`` with this id. Ids of one length have keys in their order. No event has such a sequence.

    Different ids that end in the same 7 bytes may have one key.
    """
    encoded = job_id.encode(errors="surrogatepass")
    return (int.from_bytes(encoded[-7:], "big") << 7 | crc32(encoded) & 127) - INT64_MAX


def at(time: int, job_id: str) -> Position:
    """The position of ``a_job`` with this id in a list."""
    return Position(time, key_of(job_id))


def a_job(job_id: str = "job", **changes: Any) -> Job:
    """A job with nothing special about it."""
    plain = Job(id=job_id, create_sequence=key_of(job_id), job_type="type", source_id="source", principal="owner")
    return replace(plain, **changes)


def remains(job_id: str = "job", job: Job | None = None) -> FinishedJob:
    """What a deletion is told of ``a_job`` with this id, or of another one."""
    job = job or a_job(job_id)
    time = job.complete_time or 0
    return FinishedJob(
        job.id,
        job.create_sequence,
        job.job_type,
        job.source_id,
        job.principal,
        job.state,
        time,
        job.needs_count,
        job.group_depth,
        job.create_time,
        job.labels,
    )


def an_event(job_id: str = "job", **changes: Any) -> NewEvent:
    """An event with nothing special about it."""
    plain = NewEvent(
        time=1, job_id=job_id, job_type="type", source_id="source", principal="owner", type=1, payload=b"payload"
    )
    return plain._replace(**changes)


def attempts_of(reader: Reader, job_id: str) -> list[Attempt]:
    """Every ended attempt of a job."""
    return reader.attempts(job_id, 2**31 - 1, 1_000, 2**30)


def an_attempt(job_id: str = "job", number: int = 1, **changes: Any) -> Attempt:
    """An ended attempt with nothing special about it."""
    values: dict[str, Any] = {
        "start_time": 1,
        "claim_time": 1,
        "end_time": 2,
        "outcome": AttemptOutcome.COMPLETED,
        "worker": "worker",
        "tokens": 3,
        "cost_nano": 4,
        "error": None,
    }
    return Attempt(job_id=job_id, number=number, **(values | changes))


def an_error(**changes: Any) -> JobError:
    """An error with nothing special about it."""
    values: dict[str, Any] = {
        "code": "CODE",
        "message": "message",
        "retryable": True,
        "details": b"details",
        "attempt": 1,
        "time": 5,
    }
    return JobError(**(values | changes))


def a_request(
    request_id: str = "request", *, principal: str = "owner", time: int = 1, job_id: str = "job"
) -> StoredRequest:
    """A used request id."""
    return StoredRequest(Request(principal, request_id, "Create", b"digest"), job_id, time)


def summary_of(job: Job) -> JobSummary:
    """What maintenance is told of this job."""
    return JobSummary(
        id=job.id,
        job_type=job.job_type,
        attempt=job.attempt,
        claimed=job.claimed,
        retry_count=job.retry_count,
        max_retries=job.max_retries,
        error_retryable=None if job.last_error is None else job.last_error.retryable,
        create_time=job.create_time,
        create_sequence=job.create_sequence,
        heard_time=job.heard_time,
        complete_time=job.complete_time,
        group_depth=job.group_depth,
    )


def unversioned(jobs: Iterable[Job]) -> list[ChangedJob]:
    """Rows to write that keep the version they have."""
    return [ChangedJob(job, None) for job in jobs]


def keep(store: Store, changes: Changes) -> int:
    """Write in a transaction of its own."""
    with store.transaction() as transaction:
        return transaction.write(changes)


class Interruption(Exception):
    """What stops a transaction in a test."""


def interrupt(
    store: Store, work: Callable[[Transaction], object], interruption: type[BaseException] = Interruption
) -> None:
    """Do work in a transaction, and raise before its end."""
    with store.transaction() as transaction:
        work(transaction)
        raise interruption


def keep_jobs(store: Store, *jobs: Job) -> None:
    """Insert these as they are, with no event."""
    keep(store, Changes(inserted=unversioned(jobs)))


def keep_events(store: Store, *events: NewEvent) -> int:
    """Append these."""
    return keep(store, Changes(events=list(events)))


def stored_job(store: Store, job_id: str = "job") -> Job | None:
    """The job as a new reader sees it."""
    with reading(store) as reader:
        return reader.jobs([job_id]).get(job_id)


def page_of(
    reader: Reader, after: int = 0, wanted: EventFilter = ANY_EVENT, limit: int = 1_000_000, bytes_max: int = UNBOUNDED
) -> EventPage:
    """Events after a sequence, with no bound unless one is given."""
    return reader.events(after, wanted, limit, bytes_max)


def stored_events(store: Store) -> list[StoredEvent]:
    """The whole log as a new reader sees it."""
    with reading(store) as reader:
        return page_of(reader, reader.log_state().horizon).events


def as_stored(first: int, events: Iterable[NewEvent]) -> list[StoredEvent]:
    """How these look in the log when the first has this sequence."""
    return [StoredEvent(sequence, *event) for sequence, event in enumerate(events, start=first)]


@dataclass(frozen=True)
class Contents:
    """Everything a reader can tell of a store in which only a few things are."""

    jobs: list[Job]
    attempts: list[Attempt]
    events: list[StoredEvent]
    log: tuple[int, int, int, int]
    tallies: dict[Any, int]
    tasks: dict[str, Any]


def contents(store: Store) -> Contents:
    """All that is in the store."""
    with reading(store) as reader:
        jobs = reader.list_jobs(ANY_JOB, Order.OLDEST_FIRST, None, 1_000_000, UNBOUNDED).jobs
        return Contents(
            jobs=jobs,
            attempts=[attempt for job in jobs for attempt in attempts_of(reader, job.id)],
            events=page_of(reader, reader.log_state().horizon).events,
            log=reader.log_state()[:4],
            tallies=dict(reader.tallies([])),
            tasks=dict(reader.task_runs()),
        )


ALL_STATES = tuple(JobState)
