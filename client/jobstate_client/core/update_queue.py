"""The queue of updates that a program sends over one stream: batches in order, and what was answered.

There is no I/O here, and no lock is taken. What was sent on a stream that broke is sent again, with its request ids.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core import decoding
from jobstate_client.core.calls import Backoff, Call
from jobstate_client.core.report_queue import (
    BATCH_BYTES_MAX,
    BATCH_UPDATES_MAX,
    BATCHES_IN_FLIGHT_MAX,
    error_of,
    is_transient,
)
from jobstate_client.core.values import Updated

log = logging.getLogger("jobstate_client")

F = TypeVar("F")

UPDATES_WAITING_MAX = 2_000
"""Updates that are not answered: two batches on their way, and as many again to fill the next ones."""

BYTES_WAITING_MAX = 2 * BATCHES_IN_FLIGHT_MAX * BATCH_BYTES_MAX
"""The same in bytes."""

_FIELDS = {
    pb.CreateRequest: "create",
    pb.StartRequest: "start",
    pb.UpdateProgressRequest: "progress",
    pb.CompleteRequest: "complete",
    pb.FailRequest: "fail",
    pb.RetryRequest: "retry",
    pb.CancelRequest: "cancel",
    pb.ReleaseRequest: "release",
    pb.ReportUsageRequest: "report_usage",
}


class _Waiting(NamedTuple):
    request: Message
    size: int
    future: Any


class Answer(NamedTuple, Generic[F]):
    """What has become of one update."""

    future: F
    updated: Updated | None
    error: e.JobStateError | None


def request_of(call: Call[Any]) -> Message:
    """The request of an update.

    Raises:
        TypeError: the call has a timeout: the stream has none.
    """
    if call.timeout is not None:
        raise TypeError("an update has no timeout of its own: see the patience of updates()")
    return call.request


class UpdateQueue(Generic[F]):
    """Updates that wait to be sent or answered, each with its future."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s`` is how long the server may be away before what waits fails."""
        self._patience_s = patience_s
        self._pending: deque[_Waiting] = deque()
        self._in_flight: deque[tuple[int, list[_Waiting]]] = deque()
        self._waiting = self._bytes = self._batches = 0
        self._backoff = Backoff()
        self._away_since: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every update has been answered."""
        return not self._waiting

    @property
    def is_full(self) -> bool:
        """Whether the next update has to wait for room."""
        return self._waiting >= UPDATES_WAITING_MAX or self._bytes >= BYTES_WAITING_MAX

    @property
    def has_batch(self) -> bool:
        """Whether there is a batch to send now."""
        return bool(self._pending) and len(self._in_flight) < BATCHES_IN_FLIGHT_MAX

    @property
    def expects_answer(self) -> bool:
        """Whether a batch has not been answered."""
        return bool(self._in_flight)

    def add(self, request: Message, future: F) -> None:
        """Send this after what waits already."""
        waiting = _Waiting(request, request.ByteSize(), future)
        self._pending.append(waiting)
        self._waiting += 1
        self._bytes += waiting.size

    def next_batch(self) -> pb.StreamUpdatesRequest:
        """The batch to send now; there is one."""
        batch: list[_Waiting] = []
        size = 0
        request = pb.StreamUpdatesRequest(batch=self._batches)
        while self._pending and len(batch) < BATCH_UPDATES_MAX and size < BATCH_BYTES_MAX:
            waiting = self._pending.popleft()
            batch.append(waiting)
            size += waiting.size
            getattr(request.updates.add(), _FIELDS[type(waiting.request)]).CopyFrom(waiting.request)
        self._in_flight.append((self._batches, batch))
        self._batches += 1
        return request

    def handle_response(self, response: pb.StreamUpdatesResponse) -> list[Answer[F]]:
        """The answers to the oldest batch.

        Raises:
            TransportError: it answers another batch: everything that is not answered has to be sent again.
        """
        if not self._in_flight or self._in_flight[0][0] != response.batch:
            raise e.TransportError(f"the stream of updates is out of step: batch {response.batch} was answered")
        batch = self._in_flight[0][1]
        if len(batch) != len(response.outcomes):
            raise e.TransportError(f"a batch of {len(batch)} updates got {len(response.outcomes)} outcomes")
        self._in_flight.popleft()
        self._away_since = None
        self._backoff.reset()
        return [
            self._answer(waiting, error_of(outcome), _updated(outcome))
            for waiting, outcome in zip(batch, response.outcomes, strict=True)
        ]

    def stream_ended(self, error: e.JobStateError | None) -> tuple[float, list[Answer[F]]]:
        """The stream has ended. Returns the seconds to wait before the next one, and what has failed with it."""
        unanswered = [waiting for _, batch in self._in_flight for waiting in batch]
        self._in_flight.clear()
        if error is not None and not is_transient(error):
            return 0.0, [self._answer(waiting, error) for waiting in unanswered]
        self._pending.extendleft(reversed(unanswered))
        if error is None or not self._pending:
            return 0.0, []
        now = time.monotonic()
        since = self._away_since = now if self._away_since is None else self._away_since
        wait = self._backoff.next(error.retry_after.total_seconds() if error.retry_after else 0.0)
        if now + wait - since > self._patience_s:
            return 0.0, self.abandon(error)
        return wait, []

    def abandon(self, error: e.JobStateError) -> list[Answer[F]]:
        """Nothing that waits can be sent any more."""
        unanswered: Sequence[_Waiting] = [each for _, batch in self._in_flight for each in batch] + list(self._pending)
        self._in_flight.clear()
        self._pending.clear()
        self._away_since = None
        return [self._answer(waiting, error) for waiting in unanswered]

    def _answer(self, waiting: _Waiting, error: e.JobStateError | None, updated: Updated | None = None) -> Answer[F]:
        self._waiting -= 1
        self._bytes -= waiting.size
        return Answer(waiting.future, None if error else updated, error)


def _updated(outcome: pb.UpdateOutcome) -> Updated:
    return Updated(outcome.id, outcome.version, outcome.attempt, decoding.STATES[outcome.state], outcome.existing)


def closed_error() -> e.ClientClosed:
    """The error of updates that were closed before they were answered."""
    return e.ClientClosed("the updates were closed; whether this one was made is unknown if it was sent")


def warn_of_failures(sent: int, failed: int, first: e.JobStateError | None) -> None:
    """At the end of a block, whose program may look at no future."""
    if failed:
        log.warning("%d of %d updates failed, the first with: %s", failed, sent, first)
