"""The course of a watch over any number of connections: what to ask for next, what an answer holds, how long to wait.

No I/O happens here: the synchronous and the asyncio ``Watch`` only carry messages to and fro.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, TypeVar, overload

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import decoding
from jobstate_client.core import values as v
from jobstate_client.core.calls import Backoff
from jobstate_client.core.documents import duration, seconds
from jobstate_client.core.operations import JobRef, id_of
from jobstate_client.core.states import EventType
from jobstate_client.core.validation import names
from jobstate_client.core.values import Span
from jobstate_client.errors import DeadlineExceeded, JobStateError, TransportError, TryLater, Unreachable

log = logging.getLogger("jobstate_client")

RESUME_DELAY_MAX_S = 10.0
"""Longest wait before a watch that broke off tries to go on."""

HEARTBEATS_MISSED = 3
"""Intervals without any message, after which a stream is given up: a server that is there has missed three by then."""

HEARTBEAT_S = 30.0
HEARTBEAT_MIN_S, HEARTBEAT_MAX_S = 1.0, 300.0
"""What the server takes for an interval when none is asked for, and what it raises or lowers others to."""

EVENT_TYPE_NUMBERS = {type_: number for number, type_ in decoding.EVENT_TYPES.items()}

Start = Literal["latest", "earliest"]

_STARTS = {"latest": pb.WATCH_START_LATEST, "earliest": pb.WATCH_START_EARLIEST}

_BROKEN_OFF = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
"""How else the end of a connection shows, when a proxy stood between."""

EventsT_co = TypeVar("EventsT_co", covariant=True)
ItemsT_co = TypeVar("ItemsT_co", covariant=True)


def watch_request(  # noqa: PLR0913
    *,
    job_ids: Iterable[JobRef] = (),
    job_types: Iterable[str] = (),
    source_ids: Iterable[str] = (),
    types: Iterable[EventType | str] = (),
    cursor: str = "",
    start: Start | None = None,
    snapshot: bool = False,
    follow: bool = True,
    until_final: bool = False,
    latest_progress: bool = False,
    heartbeat_interval: Span | None = None,
) -> pb.WatchEventsRequest:
    """The request of a watch, from the arguments of ``Client.watch``."""
    if start not in {None, *_STARTS}:
        raise ValueError(f"start must be latest or earliest, not {start!r}")
    if cursor and start is not None:
        raise TypeError("cursor and start both say where to begin: give one")
    request = pb.WatchEventsRequest(
        job_ids=[id_of(job) for job in names(job_ids, "job_ids")],
        job_types=names(job_types, "job_types"),
        source_ids=names(source_ids, "source_ids"),
        types=[EVENT_TYPE_NUMBERS[EventType.wanted(type_)] for type_ in names(types, "types")],  # type: ignore[misc]
        snapshot=snapshot,
        until_final=until_final,
        heartbeat_interval=None if heartbeat_interval is None else duration(heartbeat_interval, "heartbeat_interval"),
        progress=pb.WATCH_PROGRESS_LATEST if latest_progress else pb.WATCH_PROGRESS_ALL,
    )
    if not follow:
        request.follow = False
    if cursor:
        request.cursor = cursor
    elif start is not None:
        request.start = _STARTS[start]
    return request


class WatchMethod(Protocol[EventsT_co, ItemsT_co]):
    """``watch``, of either client."""

    @overload
    def __call__(
        self,
        *,
        job_ids: Iterable[JobRef] = (),
        job_types: Iterable[str] = (),
        source_ids: Iterable[str] = (),
        types: Iterable[EventType | str] = (),
        cursor: str = "",
        start: Start | None = None,
        snapshot: Literal[False] = False,
        follow: bool = True,
        until_final: bool = False,
        latest_progress: bool = False,
        heartbeat_interval: Span | None = None,
        patience: Span | None = None,
    ) -> EventsT_co: ...

    @overload
    def __call__(
        self,
        *,
        job_ids: Iterable[JobRef] = (),
        job_types: Iterable[str] = (),
        source_ids: Iterable[str] = (),
        types: Iterable[EventType | str] = (),
        cursor: str = "",
        snapshot: Literal[True],
        follow: bool = True,
        until_final: bool = False,
        latest_progress: bool = False,
        heartbeat_interval: Span | None = None,
        patience: Span | None = None,
    ) -> ItemsT_co: ...


class WatchSession:
    """Where a watch is."""

    def __init__(
        self,
        request: pb.WatchEventsRequest,
        *,
        connect_s: float,
        patience: Span | None = None,
        timeout: Span | None = None,
        emit_synced: bool = False,
    ) -> None:
        """Begin where the request says.

        Args:
            request: what to watch.
            connect_s: how long the first answer may take to come, on each connection.
            patience: how long a later outage may take; None waits for ever.
            timeout: how long all of it may take.
            tell_synced: yield ``Synced`` even without a snapshot.
        """
        self.cursor = request.cursor
        """Everything up to here has been handed out."""
        self._request = request
        self._emits_snapshot = request.snapshot
        self._emits_synced = emit_synced or request.snapshot
        self._connect_s = connect_s
        self._patience_s = None if patience is None else seconds(patience, "patience")
        self._deadline = None if timeout is None else time.monotonic() + seconds(timeout, "timeout")
        self._backoff = Backoff(limit_s=RESUME_DELAY_MAX_S)
        interval = HEARTBEAT_S
        if request.HasField("heartbeat_interval"):
            asked = seconds(request.heartbeat_interval.ToTimedelta())
            interval = min(max(asked, HEARTBEAT_MIN_S), HEARTBEAT_MAX_S)
        self.heartbeat_s = interval
        """How often the server sends something, if only a heartbeat."""
        self._answered = False
        self._is_heard = False
        """Whether the stream at hand has had an answer."""
        self._began_snapshot = False
        self._reconnect_after: float | None = None
        self._trouble_since: float | None = None

    def request(self) -> pb.WatchEventsRequest:
        """What to ask for on a new connection."""
        if self._trouble_since is None:
            self._trouble_since = time.monotonic()
        self._began_snapshot = self._is_heard = False
        request = pb.WatchEventsRequest()
        request.CopyFrom(self._request)
        if self.cursor:
            request.cursor = self.cursor
        return request

    def left_s(self) -> float | None:
        """Seconds until the deadline; None when there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def silence_s(self) -> float:
        """How long to wait for the next message, before the stream is given up."""
        if self._is_heard:
            return HEARTBEATS_MISSED * self.heartbeat_s
        if self._answered or self._trouble_since is None:
            return self._connect_s
        return max(0.0, self._trouble_since + self._connect_s - time.monotonic())

    def silent(self) -> Unreachable:
        """The error of a stream that was given up."""
        what = f"{HEARTBEATS_MISSED} heartbeats are missing" if self._is_heard else "the server has not answered"
        return Unreachable(f"{what}: the connection is taken for dead", code=grpc.StatusCode.UNAVAILABLE)

    def heard(self) -> None:
        """Note that a message has come."""
        self._answered = self._is_heard = True
        self._trouble_since = None

    def take(self, response: pb.WatchEventsResponse) -> Iterator[v.WatchItem]:
        """What a response holds. The cursor moves with the last of it."""
        self.heard()
        self._backoff.reset()
        match response.kind:
            case pb.WATCH_RESPONSE_KIND_SNAPSHOT:
                yield from self._snapshot_started()
                for job in response.jobs:
                    yield v.SnapshotJob(decoding.job(job))
            case pb.WATCH_RESPONSE_KIND_SYNCED:
                if self._emits_snapshot and not self.cursor:
                    # A snapshot without jobs has no page.
                    yield from self._snapshot_started()
                self.cursor = response.cursor
                if self._emits_synced:
                    yield v.Synced(response.cursor)
            case pb.WATCH_RESPONSE_KIND_EVENTS:
                last = len(response.events) - 1
                for index, event in enumerate(response.events):
                    told = decoding.event(event)
                    if index == last:
                        self.cursor = response.cursor
                    yield told
            case pb.WATCH_RESPONSE_KIND_DRAINING:
                self._reconnect_after = seconds(response.reconnect_after.ToTimedelta())
                self.cursor = response.cursor or self.cursor
            case _:
                # A heartbeat, or what a later server may send: its cursor counts.
                self.cursor = response.cursor or self.cursor

    def _snapshot_started(self) -> Iterator[v.WatchItem]:
        if not self._began_snapshot:
            self._began_snapshot = True
            yield v.SnapshotStarted()

    def broken(self, error: JobStateError) -> float:
        """Seconds to wait before the watch goes on.

        Raises:
            JobStateError: the error itself, when going on would not help or has been tried for long enough.
        """
        if not self._is_passing(error):
            raise error
        now = time.monotonic()
        since = self._trouble_since = now if self._trouble_since is None else self._trouble_since
        limit = self._patience_s if self._answered else self._connect_s
        asked = error.retry_after.total_seconds() if error.retry_after else 0.0
        if self._reconnect_after is not None:
            # The server has spread its watchers over two seconds: no jitter of ours beside that.
            wait, self._reconnect_after = self._reconnect_after, None
        else:
            wait = self._backoff.next(at_least_s=asked)
        if limit is not None and now + wait - since > limit:
            raise error
        if self._deadline is not None and now + wait >= self._deadline:
            raise DeadlineExceeded("the watch was broken off, and its timeout is over", code=error.code) from error
        log.info("a watch broke off (%s); it goes on in %.1f s", error, wait)
        return wait

    def _is_passing(self, error: JobStateError) -> bool:
        if isinstance(error, TryLater | Unreachable):
            return True
        if isinstance(error, TransportError) and error.code is grpc.StatusCode.CANCELLED:
            # A stopping server may cut off a watch that has only just been opened.
            return True
        return self._answered and isinstance(error, TransportError) and error.code in _BROKEN_OFF
