"""Reports on their way to the server: the newest of each run, many runs to a message, in order, over and over.

No I/O happens here and no lock is taken. Whoever drives it hands in the time, what it sends comes from ``next_batch``,
and what was answered goes into ``answer``. A report that waits is merged with what comes after it: the newest
percentage and message win, metadata is merged key by key. What was sent on a stream that broke is sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core.calls import Backoff
from jobstate_client.core.documents import struct_from
from jobstate_client.core.refusals import refusal

UNANSWERED_MAX = 2
"""Batches under way: one being committed, one on the wire. More would leave less to merge."""

REPORT_INTERVAL_S = 0.1
"""Between two reports of one run: nobody watches faster, and each one is an event that is kept."""

BATCH_UPDATES_MAX = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Of a batch: half of what the server takes."""

DOCUMENT_BYTES_MAX = 64 * 1024
"""The server's limit for metadata, and for a result. Checked here, so that whoever exceeds it is told at once."""

GONE = (e.TransitionNotAllowed, e.AttemptSuperseded, e.AttemptRequired, e.JobNotFound)
"""After one of these nothing more is to be said of an attempt."""

Ending = pb.CompleteRequest | pb.FailRequest


@dataclass(slots=True, eq=False)
class Line:
    """What is to be said of one attempt, and what was answered."""

    job_id: str
    attempt: int
    heartbeat_s: float | None
    said_at: float
    """When something was last sent."""
    on_end: Callable[[], None]
    """Called once the ending is answered, or cannot be any more."""
    reported_at: float = float("-inf")
    """When a report was last sent."""
    waiting: pb.UpdateProgressRequest | None = None
    ending: Ending | None = None
    unanswered: int = 0
    gone: e.JobStateError | None = None
    """Why the attempt is over, told by a refusal."""
    problem: e.JobStateError | None = None
    """Why a report was refused although the attempt goes on."""
    end_error: e.JobStateError | None = None
    """What the ending was refused with."""
    ended: bool = False

    def raise_refusal(self) -> None:
        """Raise what the server refused an earlier report with, if it did."""
        if self.gone is not None:
            raise self.gone
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise problem


@dataclass(slots=True)
class _Batch:
    number: int
    sent: list[tuple[Line, pb.UpdateProgressRequest | Ending]] = field(default_factory=list)


def report(
    line: Line,
    percent: int | None,
    message: str | None,
    metadata: Mapping[str, Any],
    tokens: int | None,
    cost: float | None,
) -> pb.UpdateProgressRequest:
    """A report of this attempt.

    Raises:
        InvalidField: there is too much metadata.
        TypeError, ValueError: a value cannot be sent.
    """
    request = pb.UpdateProgressRequest(id=line.job_id, attempt=line.attempt, progress=percent, message=message)
    if metadata:
        request.metadata.CopyFrom(struct_from(metadata, "metadata"))
    if tokens is not None:
        request.usage.tokens = tokens
    if cost is not None:
        request.usage.cost = cost
    return request


def merge(older: pb.UpdateProgressRequest | None, newer: pb.UpdateProgressRequest) -> pb.UpdateProgressRequest:
    """Both reports as one. A key of the metadata is replaced whole, as the server does."""
    merged = pb.UpdateProgressRequest()
    if older is not None:
        merged.CopyFrom(older)
    merged.MergeFrom(newer)
    return merged


def _due(line: Line) -> float | None:
    """When this line has something to send; None when it has nothing for now."""
    if line.ending is not None:
        # Whatever waits goes at once. The ending itself not before that is in: a report that had to be repeated would
        # come too late.
        return None if line.ended or (line.waiting is None and line.unanswered) else float("-inf")
    if line.gone is not None:
        return None
    if line.waiting is not None:
        return line.reported_at + REPORT_INTERVAL_S
    return None if line.heartbeat_s is None else line.said_at + line.heartbeat_s


class Outbox:
    """The lines of all runs of a client."""

    def __init__(self) -> None:
        self._lines: dict[Line, None] = {}
        """In the order of their turns."""
        self._unanswered: deque[_Batch] = deque()
        self._batches = 0
        self._backoff = Backoff()
        self._not_before = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is no run."""
        return not self._lines

    def join(self, line: Line) -> None:
        """Take on the reports of an attempt."""
        self._lines[line] = None

    def leave(self, line: Line) -> None:
        """Forget an attempt."""
        self._lines.pop(line, None)

    def report(self, line: Line, update: pb.UpdateProgressRequest) -> None:
        """Send this with the next batch.

        Raises:
            JobStateError: an earlier report was refused.
        """
        line.raise_refusal()
        merged = merge(line.waiting, update)
        _check_size("metadata", merged.metadata.ByteSize())
        line.waiting = merged

    def end(self, line: Line, ending: Ending) -> None:
        """Send this once all reports of the attempt have been answered."""
        if isinstance(ending, pb.CompleteRequest):
            _check_size("result", ending.result.ByteSize())
        line.ending, line.ended, line.end_error = ending, False, None
        if line.gone is not None:
            self._finish(line, line.gone)

    def pause_s(self, now: float) -> float | None:
        """Seconds until there may be something to send by itself; None when that takes an answer or a report."""
        if self._not_before > now:
            return self._not_before - now
        if len(self._unanswered) >= UNANSWERED_MAX:
            return None
        due = [at for line in self._lines if (at := _due(line)) is not None]
        return max(0.0, min(due) - now) if due else None

    def next_batch(self, now: float) -> pb.StreamUpdatesRequest | None:
        """What to send now, if anything."""
        if len(self._unanswered) >= UNANSWERED_MAX or now < self._not_before:
            return None
        request = pb.StreamUpdatesRequest(batch=self._batches)
        batch = _Batch(self._batches)
        size = 0
        for line in self._lines:
            update = self._take(line, now)
            if update is None:
                continue
            _add(request, update)
            batch.sent.append((line, update))
            line.unanswered += 1
            line.said_at = now
            size += update.ByteSize()
            if len(batch.sent) >= BATCH_UPDATES_MAX or size >= BATCH_BYTES_MAX:
                break
        if not batch.sent:
            return None
        # Those that had their turn go to the end of the queue, so that a full batch starves nobody.
        for line, _ in batch.sent:
            self._lines[line] = self._lines.pop(line)
        self._batches += 1
        self._unanswered.append(batch)
        return request

    @staticmethod
    def _take(line: Line, now: float) -> pb.UpdateProgressRequest | Ending | None:
        due = _due(line)
        if due is None or due > now:
            return None
        if line.waiting is not None:
            update, line.waiting, line.reported_at = line.waiting, None, now
            return update
        return line.ending or pb.UpdateProgressRequest(id=line.job_id, attempt=line.attempt)

    def answer(self, response: pb.StreamUpdatesResponse, now: float) -> None:
        """Take in what came of a batch."""
        batch = self._unanswered.popleft()
        assert batch.number == response.batch, "batches are answered in order"
        later = False
        for (line, update), outcome in zip(batch.sent, response.outcomes, strict=True):
            line.unanswered -= 1
            error = _error_of(outcome)
            if isinstance(error, e.TryLater):
                later = True
                self._again(line, update)
            else:
                self._answered(line, update, error)
        if later:
            self._not_before = now + self._backoff.next()
        else:
            self._backoff.reset()

    def _answered(self, line: Line, update: pb.UpdateProgressRequest | Ending, error: e.JobStateError | None) -> None:
        if isinstance(error, GONE):
            line.gone, line.waiting = error, None
        if not isinstance(update, pb.UpdateProgressRequest):
            self._finish(line, error)
        elif line.gone is not None and line.ending is not None:
            self._finish(line, line.gone)
        elif line.gone is None and error is not None:
            line.problem = error

    @staticmethod
    def _again(line: Line, update: pb.UpdateProgressRequest | Ending) -> None:
        if isinstance(update, pb.UpdateProgressRequest):
            line.waiting = update if line.waiting is None else merge(update, line.waiting)

    @staticmethod
    def _finish(line: Line, error: e.JobStateError | None) -> None:
        line.ended, line.end_error = True, error
        line.on_end()

    def broken(self, error: e.JobStateError | None, now: float) -> float:
        """The stream has ended: send what was not answered again. Returns how many seconds to wait before."""
        while self._unanswered:
            # The newest first, so that each finds those after it waiting.
            for line, update in reversed(self._unanswered.pop().sent):
                line.unanswered -= 1
                if error is None or _is_passing(error):
                    self._again(line, update)
                else:
                    self._answered(line, update, error)
        if error is None:
            return 0.0
        wait = self._backoff.next(error.retry_after.total_seconds() if error.retry_after else 0.0)
        self._not_before = now + wait
        return wait


def _is_passing(error: e.JobStateError) -> bool:
    """Whether another stream may do better. gRPC's own codes name no update as the culprit, but for these."""
    if isinstance(error, e.TransportError):
        return error.code is None or error.code.name not in {"UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"}
    return isinstance(error, e.TryLater | e.InternalError)


def _error_of(outcome: pb.UpdateOutcome) -> e.JobStateError | None:
    if not outcome.HasField("refusal"):
        return None
    told = outcome.refusal
    return refusal(told.reason, told.message, told.metadata, told.code)


def _add(request: pb.StreamUpdatesRequest, update: pb.UpdateProgressRequest | Ending) -> None:
    match update:
        case pb.UpdateProgressRequest():
            request.updates.add(progress=update)
        case pb.CompleteRequest():
            request.updates.add(complete=update)
        case pb.FailRequest():
            request.updates.add(fail=update)


def _check_size(field_name: str, size: int) -> None:
    if size > DOCUMENT_BYTES_MAX:
        message = f"{field_name}: has {size} bytes encoded, at most {DOCUMENT_BYTES_MAX} are kept"
        raise e.InvalidField(message, {"field": field_name}, violations=((field_name, message),))
