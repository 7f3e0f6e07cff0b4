"""From messages to records: what the harness writes into a history."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import grpc
import psycopg
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import rates
from jobstate_server.domain.job_types import JobType
from jobstate_server.event_log.cursor import decode_cursor
from jobstate_server.wire.events import complete_event

from .history import EventRecord, JobRecord, LogEntry, Policy, Rate, Response

_KINDS = {number: name.removeprefix("WATCH_RESPONSE_KIND_") for name, number in pb.WatchResponseKind.items()}
_TYPES = {number: name.removeprefix("EVENT_TYPE_") for name, number in event_pb2.EventType.items()}
_STATES = {number: name.removeprefix("JOB_STATE_") for name, number in job_pb2.JobState.items()}
_DECISIONS = {number: name.removeprefix("RETRY_DECISION_") for name, number in event_pb2.RetryDecision.items()}

_SENT = ("sequence", "time", "job_id", "job_type", "source_id", "type", "payload")
"""The columns that an event is sent from."""

_NAMES = ", ".join(_SENT)

ARCHIVE = f"""
CREATE TABLE IF NOT EXISTS archive AS SELECT {_NAMES} FROM event WHERE 0;
CREATE TRIGGER IF NOT EXISTS keep AFTER DELETE ON event
BEGIN INSERT INTO archive ({_NAMES}) VALUES ({", ".join(f"old.{name}" for name in _SENT)}); END;
CREATE TABLE IF NOT EXISTS unerased AS SELECT {_NAMES} FROM event WHERE 0;
CREATE TRIGGER IF NOT EXISTS keep_unerased AFTER UPDATE ON event
BEGIN INSERT INTO unerased ({_NAMES}) VALUES ({", ".join(f"old.{name}" for name in _SENT)}); END;
"""  # noqa: S608
"""Keeps what retention removes and what Erase takes from events, in the transaction that does it: the judge must know
every event there ever was."""

_POSTGRES_ARCHIVE = f"""
CREATE TABLE archive AS SELECT {_NAMES} FROM event WHERE false;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO archive ({_NAMES}) SELECT {_NAMES} FROM gone; RETURN NULL; END $$;
CREATE TRIGGER keep AFTER DELETE ON event REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION keep();
CREATE TABLE unerased AS SELECT {_NAMES} FROM event WHERE false;
CREATE FUNCTION keep_unerased() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO unerased ({_NAMES}) SELECT {_NAMES} FROM before; RETURN NULL; END $$;
CREATE TRIGGER keep_unerased AFTER UPDATE ON event REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION keep_unerased();
""".encode()  # noqa: S608
"""The same in a schema of PostgreSQL."""

_EVERY_EVENT = f"SELECT {_NAMES} FROM archive UNION ALL SELECT {_NAMES} FROM event ORDER BY sequence"  # noqa: S608
_UNERASED = f"SELECT {_NAMES} FROM unerased"  # noqa: S608
_HORIZON = "SELECT sequence FROM horizon"
_HEAD = "SELECT head FROM log"


def make_archive(store: Path | str) -> None:
    """Keep from now on what retention removes from a store: a file of SQLite, or a URL of PostgreSQL."""
    if isinstance(store, Path):
        with closing(sqlite3.connect(store)) as connection:
            connection.executescript(ARCHIVE)
    else:
        with psycopg.connect(store, autocommit=True) as database:
            database.execute(_POSTGRES_ARCHIVE)


def _kept(store: Path | str) -> list[list[tuple[Any, ...]]]:
    """The columns of every event there ever was, those of erased events as they were written, and the horizon."""
    queries = (_EVERY_EVENT, _UNERASED, _HORIZON)
    if isinstance(store, Path):
        with closing(sqlite3.connect(store)) as connection:
            return [connection.execute(query).fetchall() for query in queries]
    with psycopg.connect(store) as database:
        return [database.execute(query.encode()).fetchall() for query in queries]


def newest_sequence(store: Path | str) -> int:
    """The newest sequence of a store, which may be in use."""
    if isinstance(store, Path):
        with closing(sqlite3.connect(store)) as connection:
            return int(connection.execute(_HEAD).fetchone()[0])
    with psycopg.connect(store) as database:
        ((head,),) = database.execute(_HEAD.encode()).fetchall()
        return int(head)


def state_name(state: job_pb2.JobState.ValueType) -> str:
    """A state as histories have it."""
    return _STATES[state]


def event_type(name: str) -> event_pb2.EventType.ValueType:
    """The number of a type as histories have it."""
    return event_pb2.EventType.Value(f"EVENT_TYPE_{name}")


class Recorder:
    """Makes records, one for each event however many see it."""

    def __init__(self) -> None:
        self.positions: dict[str, int] = {}
        """The sequence of every cursor that was seen. Nothing else looks into a cursor."""
        self._events: dict[tuple[int, int], EventRecord] = {}

    def event(self, event: event_pb2.Event) -> EventRecord:
        """The record of an event."""
        digest = crc32(event.SerializeToString(deterministic=True))
        key = event.sequence, digest
        if key not in self._events:
            self._events[key] = EventRecord(
                sequence=event.sequence,
                type=_TYPES[event.type],
                job_id=event.job.id,
                version=event.job.version,
                state=_STATES[event.job.state],
                job_type=event.job.job_type,
                source_id=event.job.source_id,
                metadata=event.job.HasField("metadata"),
                digest=digest,
                labels=tuple(sorted(f"{key}={value}" for key, value in event.job.labels.items())),
                erased=event.erased,
            )
        return self._events[key]

    def note_cursor(self, text: str) -> str:
        """A cursor, remembered with its position."""
        if text and text not in self.positions:
            cursor = decode_cursor(text)
            assert cursor is not None, f"no cursor of ours: {text!r}"
            self.positions[text] = cursor.sequence
        return text

    def response(self, message: pb.WatchEventsResponse, at: float) -> Response:
        """The record of a response."""
        return Response(
            kind=_KINDS[message.kind],
            cursor=self.note_cursor(message.cursor),
            events=[self.event(event) for event in message.events],
            jobs=[
                JobRecord(job.id, job.version, _STATES[job.state], job.job_type, job.source_id) for job in message.jobs
            ],
            at=at,
        )

    def entry(self, event: event_pb2.Event) -> LogEntry:
        """The record of an event of the log."""
        return LogEntry(
            event=self.event(event),
            previous=_STATES[event.previous_state] if event.previous_state else "",
            attempt=event.job.attempt,
            decision=_DECISIONS[event.failed.decision] if event.WhichOneof("detail") == "failed" else "",
            detail=_detail(event),
            actor=event.actor,
            marker=_marker(event),
            job=job_dict(event.job),
            time=event.time.ToMicroseconds(),
            remains=_plain(event) if event.erased else {},
        )

    def log(self, store: Path | str) -> tuple[list[LogEntry], int]:
        """Every event there ever was in a store with an archive, and the horizon."""
        rows, unerased, ((horizon,),) = _kept(store)
        original = {row[0]: _event_of(row) for row in unerased}
        assert len(original) == len(unerased), "an event was changed more than once"
        entries = []
        for row in rows:
            event = _event_of(row)
            entry = self.entry(original.get(event.sequence, event))
            if event.sequence in original:
                entry.left, entry.remains = self.event(event), _plain(event)
            entries.append(entry)
        return entries, horizon


def _event_of(row: tuple[Any, ...]) -> event_pb2.Event:
    return event_pb2.Event.FromString(complete_event(*row))


def _plain(event: event_pb2.Event) -> dict[str, Any]:
    return MessageToDict(event, preserving_proto_field_name=True)


def policy_of(job_type: JobType) -> Policy:
    """The policy of a job type, as a judge needs it."""
    return Policy(
        job_type.base_delay,
        job_type.max_delay,
        job_type.jitter,
        job_type.max_retries,
        job_type.priority_step,
        job_type.concurrency,
        job_type.lane_concurrency,
        job_type.holds_jobs,
        _rate(job_type.hand_out_rate),
        _rate(job_type.lane_hand_out_rate),
    )


def _rate(rate: rates.Rate | None) -> Rate | None:
    return None if rate is None else Rate(rate.count, rate.period, rate.burst)


def job_dict(job: job_pb2.Job) -> dict[str, Any]:
    """A job as plain data, with states as histories have them."""
    found = MessageToDict(job, preserving_proto_field_name=True)
    return {**found, "state": _STATES[job.state]}


def _detail(event: event_pb2.Event) -> dict[str, Any]:
    name = event.WhichOneof("detail")
    return {} if name is None else MessageToDict(getattr(event, name), preserving_proto_field_name=True)


def _marker(event: event_pb2.Event) -> str:
    """What the call that made this event put where only it could."""
    match event.type:
        case event_pb2.EVENT_TYPE_QUEUED:
            # The metadata of a recreated job are those of another.
            is_own = "mark" in event.job.metadata.fields and not event.job.recreated_from
            return _marked(event.job.metadata["mark"]) if is_own else ""
        case event_pb2.EVENT_TYPE_STARTED | event_pb2.EVENT_TYPE_CLAIMED:
            return _marked(event.job.worker)
        case event_pb2.EVENT_TYPE_PROGRESS:
            return _marked(event.job.progress_message)
        case event_pb2.EVENT_TYPE_COMPLETED:
            return _marked(event.job.result["mark"]) if "mark" in event.job.result.fields else ""
        case event_pb2.EVENT_TYPE_FAILED:
            return _marked(event.job.last_error.code)
        case event_pb2.EVENT_TYPE_CANCELLED:
            return _marked(event.job.cancel_reason)
        case event_pb2.EVENT_TYPE_RELEASED:
            return _marked(event.released.reason)
    return ""


def _marked(text: object) -> str:
    return text if isinstance(text, str) and text.startswith("mark-") else ""


@dataclass(frozen=True)
class Ending:
    """How a call or stream ended."""

    code: str
    reason: str
    oldest_cursor: str = ""
    message: str = ""
    retry_delay_s: float | None = None
    """When to come back, as its RetryInfo says."""

    @property
    def is_unknown(self) -> bool:
        """Whether the server says that it does not know itself what has become of the change."""
        return self.reason == "STORE_UNAVAILABLE" and "outcome is unknown" in self.message


def ending_of(error: grpc.aio.AioRpcError) -> Ending:
    """What the error of a call tells."""
    status = rpc_status.from_call(cast(grpc.Call, error))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    delay_s = None
    for packed in status.details if status is not None else ():
        packed.Unpack(info)
        if packed.Unpack(retry):
            delay_s = retry.retry_delay.ToMilliseconds() / 1_000
    oldest_cursor = info.metadata.get("oldest_cursor", "")
    return Ending(error.code().name, info.reason, oldest_cursor, error.details() or "", delay_s)
