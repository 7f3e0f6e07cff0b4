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
from jobstate_client.core import validation
from jobstate_client.core.calls import Backoff
from jobstate_client.core.documents import check_size, struct_from
from jobstate_client.core.limits import DOCUMENT_BYTES_MAX
from jobstate_client.core.rpc_errors import error_for_reason

UNANSWERED_MAX = 2
"""Batches under way: one being committed, one on the wire. More would leave less to merge."""

ANSWER_S = 40.0
"""How long the answer to a batch may take: 30 s, within which the server answers every call, and 10 for the way. After
that another stream is made: a proxy may keep one to a server that is gone."""

REPORT_INTERVAL_S = 0.1
"""Between two reports of one run: nobody watches faster, and each one is an event that is kept."""

BATCH_UPDATES_MAX = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Of a batch: half of what the server takes."""

ATTEMPT_OVER = (e.TransitionNotAllowed, e.AttemptSuperseded, e.AttemptRequired, e.JobNotFound)
"""After one of these nothing more is to be said of an attempt."""

Ending = pb.CompleteRequest | pb.FailRequest | pb.ReportUsageRequest
"""What is said last of an attempt. Its usage alone is told once it is over."""


@dataclass(slots=True, eq=False)
class AttemptReports:
    """What is to be said of one attempt, and what was answered."""

    job_id: str
    attempt: int
    heartbeat_s: float | None
    last_sent_at: float
    """When something was last sent."""
    on_end: Callable[[], None]
    """Called once the ending is answered, or cannot be any more."""
    last_report_at: float = float("-inf")
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

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.ended or self.gone is not None

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
    taken_at: float
    sent: list[tuple[AttemptReports, pb.UpdateProgressRequest | Ending]] = field(default_factory=list)


def report(
    line: AttemptReports,
    percent: float | None,
    message: str | None,
    metadata: Mapping[str, Any],
    tokens: int | None,
    cost: float | None,
) -> pb.UpdateProgressRequest:
    """A report of this attempt, judged: sending it cannot fail, and the server finds nothing wrong with it.

    Raises:
        InvalidField: there is too much metadata, or it is nested too deep, or the message is too long.
        TypeError, ValueError: a value cannot be sent.
    """
    request = pb.UpdateProgressRequest(id=line.job_id, attempt=line.attempt)
    if percent is not None:
        request.progress = validation.percent(percent)
    if message is not None:
        request.message = validation.message(message)
    if metadata:
        request.metadata.CopyFrom(struct_from(metadata, "metadata"))
    if tokens is not None:
        request.usage.tokens = validation.tokens(tokens)
    if cost is not None:
        request.usage.cost = validation.cost(cost)
    return request


def merge(older: pb.UpdateProgressRequest | None, newer: pb.UpdateProgressRequest) -> pb.UpdateProgressRequest:
    """Both reports as one. A key of the metadata is replaced whole, as the server does."""
    merged = pb.UpdateProgressRequest()
    if older is not None:
        merged.CopyFrom(older)
    merged.MergeFrom(newer)
    return merged


def _due(line: AttemptReports) -> float | None:
    """When this line has something to send; None when it has nothing for now."""
    if line.ending is not None:
        # Whatever waits goes at once. The ending itself not before that is in: a report that had to be repeated would
        # come too late.
        return None if line.ended or (line.waiting is None and line.unanswered) else float("-inf")
    if line.gone is not None:
        return None
    if line.waiting is not None:
        return line.last_report_at + REPORT_INTERVAL_S
    return None if line.heartbeat_s is None else line.last_sent_at + line.heartbeat_s


class ReportQueue:
    """The lines of all runs of a client."""

    def __init__(self) -> None:
        self._lines: dict[AttemptReports, None] = {}
        """In the order of their turns."""
        self._unanswered: deque[_Batch] = deque()
        self._batches = 0
        self._backoff = Backoff()
        self._not_before = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is no run."""
        return not self._lines

    def lines(self) -> list[AttemptReports]:
        """Those of all runs. May be asked from any thread."""
        return list(self._lines)

    def join(self, line: AttemptReports) -> None:
        """Take on the reports of an attempt."""
        self._lines[line] = None

    def leave(self, line: AttemptReports) -> None:
        """Forget an attempt."""
        self._lines.pop(line, None)

    def report(self, line: AttemptReports, update: pb.UpdateProgressRequest) -> None:
        """Send this with the next batch.

        Raises:
            JobStateError: an earlier report was refused.
        """
        line.raise_refusal()
        merged = merge(line.waiting, update)
        check_size("metadata", merged.metadata.ByteSize(), DOCUMENT_BYTES_MAX)
        line.waiting = merged

    def end(self, line: AttemptReports, ending: Ending) -> None:
        """Send this once all reports of the attempt have been answered."""
        line.ending, line.ended, line.end_error = ending, False, None
        if line.gone is not None and not isinstance(ending, pb.ReportUsageRequest):
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
        batch = _Batch(self._batches, now)
        self._batches += 1
        # Before anything is taken: whatever happens from here on, what was taken is sent again with the next stream.
        self._unanswered.append(batch)
        self._fill(request, batch, now)
        if not batch.sent:
            self._unanswered.pop()
            return None
        # Those that had their turn go to the end of the queue, so that a full batch starves nobody.
        for line, _ in batch.sent:
            self._lines[line] = self._lines.pop(line)
        return request

    def _fill(self, request: pb.StreamUpdatesRequest, batch: _Batch, now: float) -> None:
        size = 0
        for line in self._lines:
            update = self._take(line, now)
            if update is None:
                continue
            line.last_sent_at = now
            try:
                _add(request, update)
            except Exception as error:
                # What is taken up has been judged, so this does not happen. If it does, it is nobody else's trouble.
                del request.updates[len(batch.sent) :]
                self._answered(line, update, e.InvalidField(f"the report of {line.job_id} cannot be sent: {error!r}"))
                continue
            batch.sent.append((line, update))
            line.unanswered += 1
            size += update.ByteSize()
            if len(batch.sent) >= BATCH_UPDATES_MAX or size >= BATCH_BYTES_MAX:
                break

    @staticmethod
    def _take(line: AttemptReports, now: float) -> pb.UpdateProgressRequest | Ending | None:
        due = _due(line)
        if due is None or due > now:
            return None
        if line.waiting is not None:
            update, line.waiting, line.last_report_at = line.waiting, None, now
            return update
        return line.ending or pb.UpdateProgressRequest(id=line.job_id, attempt=line.attempt)

    @property
    def unanswered_since(self) -> float | None:
        """When the oldest batch was taken that has no answer; None when all have."""
        return self._unanswered[0].taken_at if self._unanswered else None

    def answer(self, response: pb.StreamUpdatesResponse, now: float) -> None:
        """Take in what came of a batch.

        Raises:
            TransportError: it is not what comes next on this stream: something between here and the server has lost
                or repeated a message. All that is not answered is to be sent again, on another stream.
        """
        batch = self._unanswered[0] if self._unanswered else None
        if batch is None or batch.number != response.batch or len(batch.sent) != len(response.outcomes):
            awaited = "nothing" if batch is None else f"batch {batch.number} with {len(batch.sent)} updates"
            told = f"batch {response.batch} with {len(response.outcomes)} outcomes"
            raise e.TransportError(f"the stream of reports is out of step: it answers {told}, awaited was {awaited}")
        self._unanswered.popleft()
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

    def _answered(
        self, line: AttemptReports, update: pb.UpdateProgressRequest | Ending, error: e.JobStateError | None
    ) -> None:
        if isinstance(error, ATTEMPT_OVER) and not isinstance(update, pb.ReportUsageRequest):
            line.gone, line.waiting = error, None
        if not isinstance(update, pb.UpdateProgressRequest):
            self._finish(line, error)
        elif line.gone is not None and line.ending is not None:
            if not isinstance(line.ending, pb.ReportUsageRequest):
                self._finish(line, line.gone)
        elif line.gone is None and error is not None:
            line.problem = error

    @staticmethod
    def _again(line: AttemptReports, update: pb.UpdateProgressRequest | Ending) -> None:
        if isinstance(update, pb.UpdateProgressRequest):
            line.waiting = update if line.waiting is None else merge(update, line.waiting)

    @staticmethod
    def _finish(line: AttemptReports, error: e.JobStateError | None) -> None:
        line.ended, line.end_error = True, error
        line.on_end()

    def abandon(self, error: e.JobStateError) -> None:
        """Nothing is sent any more: tell those that wait for the answer to their ending."""
        for line in self._lines:
            if line.ending is not None and not line.ended:
                self._finish(line, error)

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


def unanswered() -> e.Unreachable:
    """The error of a stream on which an answer took too long."""
    return e.Unreachable(f"a batch of reports was not answered in {ANSWER_S:g} s: the stream is taken for dead")


def _is_passing(error: e.JobStateError) -> bool:
    """Whether another stream may do better. gRPC's own codes name no update as the culprit, but for these."""
    if isinstance(error, e.TransportError):
        return error.code is None or error.code.name not in {"UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"}
    return isinstance(error, e.TryLater | e.InternalError)


def _error_of(outcome: pb.UpdateOutcome) -> e.JobStateError | None:
    if not outcome.HasField("refusal"):
        return None
    told = outcome.refusal
    return error_for_reason(told.reason, told.message, told.metadata, told.code)


def _add(request: pb.StreamUpdatesRequest, update: pb.UpdateProgressRequest | Ending) -> None:
    match update:
        case pb.UpdateProgressRequest():
            request.updates.add(progress=update)
        case pb.CompleteRequest():
            request.updates.add(complete=update)
        case pb.FailRequest():
            request.updates.add(fail=update)
        case pb.ReportUsageRequest():
            request.updates.add(report_usage=update)
