"""One watch over any number of connections: what to request next, what a response contains, how long to wait.

There is no I/O here: the two ``Watch`` classes only send requests and pass in the responses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import decoding
from jobstate_client.core import values as v
from jobstate_client.core.calls import Backoff
from jobstate_client.core.documents import seconds
from jobstate_client.core.values import Span
from jobstate_client.errors import DeadlineExceeded, JobStateError, TransportError, TryLater, Unreachable

log = logging.getLogger("jobstate_client")

RESUME_DELAY_S_MAX = 10.0
"""Longest wait before a watch that broke off is resumed."""

HEARTBEATS_MISSED = 3
"""Heartbeat intervals without any message after which a stream is given up."""

HEARTBEAT_S = 30.0
HEARTBEAT_S_MIN, HEARTBEAT_S_MAX = 1.0, 300.0
"""The server's heartbeat interval if none is requested, and its bounds for one that is."""

_BROKEN_CODES = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
"""Codes that a proxy may give to a stream whose connection was lost."""


class WatchSession:
    """The state of one watch."""

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
            connect_s: how long the first response may take; later connections have the same limit.
            patience: how long a later outage may last; None waits for ever.
            timeout: how long the whole watch may take.
            emit_synced: yield ``Synced`` even without a snapshot.
        """
        self.cursor = request.cursor
        """Everything up to here has been yielded."""
        self._request = request
        self._emits_snapshot = request.snapshot
        self._emits_synced = emit_synced or request.snapshot
        self._connect_s = connect_s
        self._patience_s = None if patience is None else seconds(patience, "patience")
        self._deadline = None if timeout is None else time.monotonic() + seconds(timeout, "timeout")
        self._backoff = Backoff(limit_s=RESUME_DELAY_S_MAX)
        interval = HEARTBEAT_S
        if request.HasField("heartbeat_interval"):
            requested = seconds(request.heartbeat_interval.ToTimedelta())
            interval = min(max(requested, HEARTBEAT_S_MIN), HEARTBEAT_S_MAX)
        self.heartbeat_s = interval
        """The server sends at least a heartbeat this often."""
        self._was_answered = False
        """Whether any stream has been answered."""
        self._is_answered = False
        """Whether the current stream has been answered."""
        self._snapshot_started = False
        self._reconnect_after_s: float | None = None
        self._outage_since: float | None = None

    def next_request(self) -> pb.WatchEventsRequest:
        """The request for a new stream."""
        if self._outage_since is None:
            self._outage_since = time.monotonic()
        self._snapshot_started = self._is_answered = False
        request = pb.WatchEventsRequest()
        request.CopyFrom(self._request)
        if self.cursor:
            request.cursor = self.cursor
        return request

    def left_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def silence_limit_s(self) -> float:
        """How long to wait for the next message before the stream is given up."""
        if self._is_answered:
            return HEARTBEATS_MISSED * self.heartbeat_s
        if self._was_answered or self._outage_since is None:
            return self._connect_s
        return max(0.0, self._outage_since + self._connect_s - time.monotonic())

    def silence_error(self) -> Unreachable:
        """The error of a stream that was given up."""
        what = f"{HEARTBEATS_MISSED} heartbeats are missing" if self._is_answered else "the server has not answered"
        return Unreachable(f"{what}: the connection is dead", code=grpc.StatusCode.UNAVAILABLE)

    def message_received(self) -> None:
        """Note that a message has come."""
        self._was_answered = self._is_answered = True
        self._outage_since = None

    def items(self, response: pb.WatchEventsResponse) -> Iterator[v.WatchItem]:
        """What a response contains. The cursor moves with the last item."""
        self.message_received()
        self._backoff.reset()
        match response.kind:
            case pb.WATCH_RESPONSE_KIND_SNAPSHOT:
                yield from self._start_snapshot()
                for job in response.jobs:
                    yield v.SnapshotJob(decoding.job(decoding.own_copy(job)))
            case pb.WATCH_RESPONSE_KIND_SYNCED:
                if self._emits_snapshot and not self.cursor:
                    # A snapshot without jobs has no page.
                    yield from self._start_snapshot()
                self.cursor = response.cursor
                if self._emits_synced:
                    yield v.Synced(response.cursor)
            case pb.WATCH_RESPONSE_KIND_EVENTS:
                last = len(response.events) - 1
                for index, message in enumerate(response.events):
                    event = decoding.event(decoding.own_copy(message))
                    if index == last:
                        self.cursor = response.cursor
                    yield event
            case pb.WATCH_RESPONSE_KIND_DRAINING:
                self._reconnect_after_s = seconds(response.reconnect_after.ToTimedelta())
                self.cursor = response.cursor or self.cursor
            case _:
                # A heartbeat, or a kind of a newer server: its cursor counts.
                self.cursor = response.cursor or self.cursor

    def _start_snapshot(self) -> Iterator[v.WatchItem]:
        if not self._snapshot_started:
            self._snapshot_started = True
            yield v.SnapshotStarted()

    def resume_delay_s(self, error: JobStateError) -> float:
        """Seconds to wait before the watch is resumed, after its stream ended with this error.

        Raises:
            JobStateError: the error itself, if resuming would not help or has been tried for long enough.
        """
        if not self._can_resume(error):
            raise error
        now = time.monotonic()
        since = self._outage_since = now if self._outage_since is None else self._outage_since
        limit = self._patience_s if self._was_answered else self._connect_s
        if self._reconnect_after_s is not None:
            # The server spreads its watchers over two seconds: no jitter is added.
            delay, self._reconnect_after_s = self._reconnect_after_s, None
        else:
            delay = self._backoff.next(at_least_s=error.retry_after.total_seconds() if error.retry_after else 0.0)
        if limit is not None and now + delay - since > limit:
            raise error
        if self._deadline is not None and now + delay >= self._deadline:
            raise DeadlineExceeded("the watch broke off, and its timeout has passed", code=error.code) from error
        log.info("a watch broke off (%s); resuming it in %.1f s", error, delay)
        return delay

    def _can_resume(self, error: JobStateError) -> bool:
        if isinstance(error, TryLater | Unreachable):
            return True
        if isinstance(error, TransportError) and error.code is grpc.StatusCode.CANCELLED:
            # A server that is stopping may end a watch that has only just been opened.
            return True
        return self._was_answered and isinstance(error, TransportError) and error.code in _BROKEN_CODES
