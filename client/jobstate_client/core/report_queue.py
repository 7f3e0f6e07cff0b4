"""The queue of reports to the server: the newest report of each run, many runs in a batch, batches in order.

There is no I/O here, and no lock is taken. The caller passes in the time, sends what ``next_batch`` returns, and passes
each answer to ``handle_response``. Reports that wait are merged: the newest percentage and message win, and metadata is
merged key by key. What was sent on a stream that broke is sent again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core.attempt_reports import AttemptReports, Ending
from jobstate_client.core.calls import Backoff
from jobstate_client.core.rpc_errors import error_for_reason

BATCHES_IN_FLIGHT_MAX = 2
"""Batches sent and not answered: one is being committed, one is on the wire. More would leave fewer to
merge."""

ANSWER_TIMEOUT_S = 40.0
"""How long the answer to a batch may take: the server answers every call within 30 s, and 10 s are for the network.
After that the client opens another stream: a proxy may keep one open to a server that is gone."""

BATCH_UPDATES_MAX = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of a batch: half of what the server accepts."""


@dataclass(slots=True)
class _Batch:
    number: int
    taken_at: float
    sent: list[tuple[AttemptReports, pb.UpdateProgressRequest | Ending]] = field(default_factory=list)


class ReportQueue:
    """The reports of all runs of a client."""

    def __init__(self) -> None:
        self._attempts: dict[AttemptReports, None] = {}
        """In the order of their turns."""
        self._in_flight: deque[_Batch] = deque()
        self._batches = 0
        self._backoff = Backoff()
        self._not_before = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is no run."""
        return not self._attempts

    def attempts(self) -> list[AttemptReports]:
        """Those of all runs. May be called from any thread."""
        return list(self._attempts)

    def add(self, reports: AttemptReports) -> None:
        """Begin to send the reports of an attempt."""
        self._attempts[reports] = None

    def remove(self, reports: AttemptReports) -> None:
        """Forget an attempt."""
        self._attempts.pop(reports, None)

    def next_batch_in_s(self, now: float) -> float | None:
        """Seconds until there may be something to send; None when an answer or a report has to come first."""
        if self._not_before > now:
            return self._not_before - now
        if len(self._in_flight) >= BATCHES_IN_FLIGHT_MAX:
            return None
        due = [at for reports in self._attempts if (at := reports.due_at()) is not None]
        return max(0.0, min(due) - now) if due else None

    def next_batch(self, now: float) -> pb.StreamUpdatesRequest | None:
        """The batch to send now, if there is one."""
        if len(self._in_flight) >= BATCHES_IN_FLIGHT_MAX or now < self._not_before:
            return None
        request = pb.StreamUpdatesRequest(batch=self._batches)
        batch = _Batch(self._batches, now)
        self._batches += 1
        # Appended before it is filled: if filling fails, what was taken is sent again on the next stream.
        self._in_flight.append(batch)
        self._fill(request, batch, now)
        if not batch.sent:
            self._in_flight.pop()
            return None
        # Those that were sent go to the end of the queue, so that a full batch starves nobody.
        for reports, _ in batch.sent:
            self._attempts[reports] = self._attempts.pop(reports)
        return request

    def _fill(self, request: pb.StreamUpdatesRequest, batch: _Batch, now: float) -> None:
        size = 0
        for reports in self._attempts:
            update = reports.take(now)
            if update is None:
                continue
            reports.last_sent_at = now
            try:
                _add_update(request, update)
            except Exception as error:
                # Reports are validated when they are added, so this is a bug. It must fail only its own run.
                del request.updates[len(batch.sent) :]
                invalid = e.InvalidField(f"the report of {reports.job_id} cannot be sent: {error!r}")
                reports.handle_answer(update, invalid)
                continue
            batch.sent.append((reports, update))
            reports.in_flight += 1
            size += update.ByteSize()
            if len(batch.sent) >= BATCH_UPDATES_MAX or size >= BATCH_BYTES_MAX:
                break

    @property
    def waiting_since(self) -> float | None:
        """When the oldest batch without an answer was taken; None when all are answered."""
        return self._in_flight[0].taken_at if self._in_flight else None

    def handle_response(self, response: pb.StreamUpdatesResponse, now: float) -> None:
        """Note the outcomes of a batch.

        Raises:
            TransportError: it is not the answer to the oldest batch: something between client and server has lost or
                repeated a message. Everything that is not answered has to be sent again, on another stream.
        """
        batch = self._in_flight[0] if self._in_flight else None
        if batch is None or batch.number != response.batch or len(batch.sent) != len(response.outcomes):
            expected = "nothing" if batch is None else f"batch {batch.number} with {len(batch.sent)} updates"
            received = f"batch {response.batch} with {len(response.outcomes)} outcomes"
            raise e.TransportError(
                f"the stream of reports is out of step: received {received}, but expected {expected}"
            )
        self._in_flight.popleft()
        try_later = False
        for (reports, update), outcome in zip(batch.sent, response.outcomes, strict=True):
            reports.in_flight -= 1
            error = error_of(outcome)
            if isinstance(error, e.TryLater):
                try_later = True
                reports.requeue(update)
            else:
                reports.handle_answer(update, error)
        if try_later:
            self._not_before = now + self._backoff.next()
        else:
            self._backoff.reset()

    def abandon(self, error: e.JobStateError) -> None:
        """Nothing can be sent any more: pass this error to those who wait for their ending."""
        for reports in self._attempts:
            if reports.ending is not None and not reports.ended:
                reports.finish(error)

    def stream_ended(self, error: e.JobStateError | None, now: float) -> float:
        """The stream has ended: requeue what was not answered. Returns the seconds to wait before the next stream."""
        while self._in_flight:
            # The newest first, so that each report is merged under those that came after it.
            for reports, update in reversed(self._in_flight.pop().sent):
                reports.in_flight -= 1
                if error is None or is_transient(error):
                    reports.requeue(update)
                else:
                    reports.handle_answer(update, error)
        if error is None:
            return 0.0
        wait = self._backoff.next(error.retry_after.total_seconds() if error.retry_after else 0.0)
        self._not_before = now + wait
        return wait


def answer_timed_out() -> e.Unreachable:
    """The error of a stream on which an answer took too long."""
    return e.Unreachable(f"a batch of reports was not answered within {ANSWER_TIMEOUT_S:g} s: the stream is dead")


def is_transient(error: e.JobStateError) -> bool:
    """Whether another stream may succeed. Of gRPC's own codes only these three would come again on every stream."""
    if isinstance(error, e.TransportError):
        return error.code is None or error.code.name not in {"UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"}
    return isinstance(error, e.TryLater | e.InternalError)


def error_of(outcome: pb.UpdateOutcome) -> e.JobStateError | None:
    """The error that an update was refused with; None if it was not."""
    if not outcome.HasField("refusal"):
        return None
    refusal = outcome.refusal
    return error_for_reason(refusal.reason, refusal.message, refusal.metadata, refusal.code)


def _add_update(request: pb.StreamUpdatesRequest, update: pb.UpdateProgressRequest | Ending) -> None:
    match update:
        case pb.UpdateProgressRequest():
            request.updates.add(progress=update)
        case pb.CompleteRequest():
            request.updates.add(complete=update)
        case pb.FailRequest():
            request.updates.add(fail=update)
        case pb.ReleaseRequest():
            request.updates.add(release=update)
        case pb.ReportUsageRequest():
            request.updates.add(report_usage=update)
