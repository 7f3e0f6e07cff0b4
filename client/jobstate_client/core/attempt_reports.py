"""The reports of one attempt: what waits to be sent, and what the server answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core import validation
from jobstate_client.core.documents import check_size, struct_from
from jobstate_client.core.limits import DOCUMENT_BYTES_MAX

REPORT_INTERVAL_S = 0.1
"""Shortest time between two reports of one attempt: nobody watches faster, and each report is an event that is kept."""

ATTEMPT_OVER = (e.TransitionNotAllowed, e.AttemptSuperseded, e.AttemptRequired, e.JobNotFound)
"""After one of these errors the server accepts no report of the attempt."""

Ending = pb.CompleteRequest | pb.FailRequest | pb.ReleaseRequest | pb.ReportUsageRequest
"""The last request of an attempt. ReportUsage is sent alone when the attempt is already over."""


def _nothing() -> None:
    pass


@dataclass(slots=True, eq=False)
class AttemptReports:
    """What to send for one attempt, and what was answered. No lock is taken: the owner holds one."""

    job_id: str
    attempt: int
    heartbeat_s: float | None
    """Send a heartbeat after this long without any report; None sends none."""
    last_sent_at: float
    """When anything was last sent."""
    on_end: Callable[[], None]
    """Called when the ending has been answered, or can no longer be sent."""
    last_report_at: float = float("-inf")
    """When a report with content was last sent."""
    pending: pb.UpdateProgressRequest | None = None
    """The report to send next: all that waited, merged."""
    ending: Ending | None = None
    in_flight: int = 0
    """Requests sent and not yet answered."""
    over: e.JobStateError | None = None
    """The error that said that the attempt is over."""
    rejected: e.JobStateError | None = None
    """The error of a report that was refused although the attempt goes on."""
    ended: bool = False
    """Whether the ending was answered, or can no longer be sent."""
    end_error: e.JobStateError | None = None
    """The error that the ending was refused with."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when it is known that the attempt is over while its work goes on."""
    on_over: Callable[[], object] = _nothing
    """Called at that moment."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.ended or self.over is not None

    @property
    def has_completed(self) -> bool:
        """Whether the server has accepted that the work succeeded."""
        return isinstance(self.ending, pb.CompleteRequest) and self.ended and self.end_error is None

    def raise_error(self) -> None:
        """Raise the error that an earlier report was refused with, if there is one."""
        if self.over is not None:
            raise self.over
        if self.rejected is not None:
            rejected, self.rejected = self.rejected, None
            raise rejected

    def add(self, report: pb.UpdateProgressRequest) -> None:
        """Send this report next, merged with what waits already.

        Raises:
            JobStateError: an earlier report was refused.
            InvalidField: the merged metadata is too large.
        """
        self.raise_error()
        merged = merge(self.pending, report)
        check_size("metadata", merged.metadata.ByteSize(), DOCUMENT_BYTES_MAX)
        self.pending = merged

    def requeue(self, request: pb.UpdateProgressRequest | Ending) -> None:
        """Send this request again. What has been added since is newer and wins."""
        if isinstance(request, pb.UpdateProgressRequest):
            self.pending = request if self.pending is None else merge(request, self.pending)

    def end(self, ending: Ending) -> None:
        """Send this once every report of the attempt has been answered."""
        self.ending, self.ended, self.end_error = ending, False, None
        if self.over is not None and not isinstance(ending, pb.ReportUsageRequest):
            self.finish(self.over)

    def finish(self, error: e.JobStateError | None) -> None:
        """Note the outcome of the ending, and notify whoever waits for it."""
        self.ended, self.end_error = True, error
        self.on_end()

    def cancel(self, error: e.JobStateError) -> None:
        """The attempt is over: report nothing more.

        An ending that is being sent is answered by the server.
        """
        if self.over is not None or self.ending is not None:
            return
        self._set_over(error)

    def _set_over(self, error: e.JobStateError) -> None:
        is_news = self.over is None and self.ending is None
        self.over, self.pending = error, None
        if is_news:
            self.cancelled.set()
            self.on_over()

    def due_at(self) -> float | None:
        """When the next request is to be sent; None while there is nothing to send."""
        if self.ending is not None:
            # What is pending goes at once. The ending waits until that is answered: a report that has to be sent
            # again would come after the end.
            return None if self.ended or (self.pending is None and self.in_flight) else float("-inf")
        if self.over is not None:
            return None
        if self.pending is not None:
            return self.last_report_at + REPORT_INTERVAL_S
        return None if self.heartbeat_s is None else self.last_sent_at + self.heartbeat_s

    def take(self, now: float) -> pb.UpdateProgressRequest | Ending | None:
        """The request to send now: the pending report, the ending, or a heartbeat. None when nothing is due."""
        due = self.due_at()
        if due is None or due > now:
            return None
        if self.pending is not None:
            request, self.pending, self.last_report_at = self.pending, None, now
            return request
        return self.ending or self.heartbeat()

    def heartbeat(self) -> pb.UpdateProgressRequest:
        """A report without content, which says that the attempt is alive."""
        return pb.UpdateProgressRequest(id=self.job_id, attempt=self.attempt)

    def handle_answer(self, request: pb.UpdateProgressRequest | Ending, error: e.JobStateError | None) -> None:
        """Note the answer to a request: the error that it was refused with, or None."""
        if isinstance(error, ATTEMPT_OVER) and not isinstance(request, pb.ReportUsageRequest):
            self._set_over(error)
        if not isinstance(request, pb.UpdateProgressRequest):
            self.finish(error)
        elif self.over is not None and self.ending is not None:
            if not isinstance(self.ending, pb.ReportUsageRequest):
                self.finish(self.over)
        elif self.over is None and error is not None:
            self.rejected = error


def progress_report(
    reports: AttemptReports,
    percent: float | None,
    message: str | None,
    metadata: Mapping[str, Any],
    tokens: int | None,
    cost: float | None,
) -> pb.UpdateProgressRequest:
    """A validated report of this attempt: it can be sent, and the server accepts its fields.

    Raises:
        InvalidField: the metadata is too large or nested too deep, or the message is too long.
        TypeError, ValueError: a value cannot be sent.
    """
    request = reports.heartbeat()
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
    """Both reports as one. A metadata key is replaced whole, as on the server."""
    merged = pb.UpdateProgressRequest()
    if older is not None:
        merged.CopyFrom(older)
    merged.MergeFrom(newer)
    return merged
