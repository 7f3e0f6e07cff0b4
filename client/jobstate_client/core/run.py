"""A run: one attempt from start to end, as the code that does the work sees it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import creating, operations, validation
from jobstate_client.core.attempt_reports import AttemptReports, progress_report
from jobstate_client.core.batches import Batches
from jobstate_client.core.documents import seconds
from jobstate_client.core.job_failure import IsRetryable
from jobstate_client.core.limits import WORKER_BYTES_MAX
from jobstate_client.core.operations import JobRef
from jobstate_client.core.values import Job, NewJob, Span

T = TypeVar("T")

PATIENCE_S = 120.0
"""How long a run tries to report its end while the server is away. The work is worth that wait."""

INTERRUPTED_PATIENCE_S = 5.0
"""The same for a run that was interrupted: nobody who stops a program waits longer."""

Heartbeat = Span | Literal["auto"] | None
"""Send a heartbeat after this long without a report. "auto" follows the job type; None sends none."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run. They are validated when given: at the end of the run it would be too late."""

    worker: str
    heartbeat: Heartbeat = "auto"
    patience: Span = PATIENCE_S
    is_retryable: IsRetryable | None = None

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError if an option is invalid."""
        validation.message(self.worker, "worker", WORKER_BYTES_MAX)
        if self.heartbeat != "auto" and self.heartbeat is not None and seconds(self.heartbeat, "heartbeat") <= 0:
            raise ValueError("heartbeat must be more than 0 seconds, None for never, or auto")
        if seconds(self.patience, "patience") < 0:
            raise ValueError("patience must be 0 seconds or more")
        if self.is_retryable is not None and not callable(self.is_retryable):
            raise TypeError("is_retryable must be a function of an exception")


def default_worker() -> str:
    """The name of this process as a worker: its machine and process id."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}"


class RunStart:
    """The calls that start a run. Repeated after an interrupt, they are the same calls with the same request ids."""

    def __init__(self, job: JobRef | NewJob) -> None:
        self.request_id = operations.new_request_id()
        """The request_id of Start."""
        self.job: JobRef = ""
        """The job to start, once it has been created."""
        self.new_job: NewJob | None = None
        """The job to create first; None once that has been done."""
        if isinstance(job, NewJob):
            self.new_job = replace(job, request_id=job.request_id or operations.new_request_id())
        else:
            self.job = job

    @property
    def may_have_started(self) -> bool:
        """Whether Start may have been called."""
        return self.new_job is None


class Run:
    """One attempt of a job that is under way. Reports return at once, and are sent in the background.

    Of the reports that wait to be sent, the newest wins, and metadata is merged key by key. The last report is always
    delivered before the end. Without reports, the server gets heartbeats.
    """

    def __init__(
        self,
        job: Job,
        reports: AttemptReports,
        send: Callable[[AttemptReports, pb.UpdateProgressRequest], None],
        invoke_all: Callable[[Batches[Any]], Any],
    ) -> None:
        self.job = job
        """The job as it was when this attempt was claimed."""
        self._result: Mapping[str, Any] | None = None
        self._result_count: int | None = None
        self._reports = reports
        self._send = send
        self._invoke_all = invoke_all
        self._tokens: int | None = None
        self._cost: float | None = None
        self._request_id = operations.new_request_id()
        """The request_id of the run's end, which may be sent more than once."""

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def attempt(self) -> int:
        """The number of this attempt."""
        return self.job.attempt

    @property
    def result(self) -> Mapping[str, Any] | None:
        """The result of the work, at most 64 KiB. It is stored when the block ends without an exception."""
        return self._result

    @result.setter
    def result(self, value: Mapping[str, Any] | None) -> None:
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"result must be a dict or None, not a {type(value).__name__}")
        self._result = value

    @property
    def result_count(self) -> int | None:
        """How many results the work produced. It is stored when the block ends without an exception."""
        return self._result_count

    @result_count.setter
    def result_count(self, value: int | None) -> None:
        self._result_count = None if value is None else validation.result_count(value)

    @property
    def is_over(self) -> bool:
        """Whether the server has refused a report because the attempt is over. Further work would be lost."""
        return self._reports.over is not None

    @property
    def cancelled(self) -> threading.Event:
        """Set when the work is no longer wanted: wait on it, not sleep.

        The job has been cancelled (a worker knows that within a second), another worker has it because the lease ended,
        or the worker stopped and gave the attempt back. ``check`` then raises the error that says which.
        """
        return self._reports.cancelled

    def progress(self, percent: float | None = None, message: str | None = None, /, **metadata: Any) -> None:
        """Report progress. ``metadata`` is merged into the job's, and None removes a key.

        Raises:
            JobCancelled, AttemptSuperseded, TransitionNotAllowed: an earlier report was refused because the attempt
                is over. Do not catch it: the run then ends without another report.
            InvalidField: something in this report is too large, too long or nested too deep, or an earlier report
                was too large together with the metadata that the job had.
            TypeError, ValueError: something in this report cannot be sent.
            ClientClosed: the client was closed.
        """
        self._send(self._reports, progress_report(self._reports, percent, message, metadata, None, None))

    def usage(self, *, tokens: int | None = None, cost: float | None = None) -> None:
        """Report what the attempt has used so far, in total.

        Raises the same errors as ``progress``, and ValueError for a number that is negative, not finite, or above
        10**15 tokens or a cost of 10**9.
        """
        update = progress_report(self._reports, None, None, {}, tokens, cost)
        self._tokens = self._tokens if tokens is None else update.usage.tokens
        self._cost = self._cost if cost is None else update.usage.cost
        self._send(self._reports, update)

    def create_many(self, jobs: Iterable[NewJob], *, timeout: Span | None = None) -> Any:
        """Create jobs, as ``Client.create_many`` does, unless this attempt is over. Returns a ``CreatedJob`` for each.

        They join the group of this run's job, if it is in one and they name no other, also after that is closed. With
        an ``AsyncClient``, await the call.

        Raises:
            AttemptSuperseded: this attempt is over, so nothing more was created.
            and the errors of ``Client.create_many``.
        """
        given = creating.new_jobs(jobs)
        made = (replace(new, by=self.job, group_id=new.group_id or self.job.group_id) for new in given)
        return self._invoke_all(creating.create_many(made, timeout=timeout))

    def check(self) -> None:
        """Raise the same errors as ``progress`` if the attempt is known to be over. Nothing is reported."""
        self._reports.raise_error()

    def track(self, items: Iterable[T], total: int | None = None) -> Iterator[T]:
        """Iterate over the items and report progress. An item counts as done when the next one is asked for.

        ``total`` is the number of items, for items without a length. Without either, only the count is reported.
        """
        size = total if total is not None else _length(items)
        for done, item in enumerate(items):
            self._report_done(done, size)
            yield item
        self.check()

    async def track_async(self, items: AsyncIterable[T], total: int | None = None) -> AsyncIterator[T]:
        """``track`` for an asynchronous iterable."""
        done = 0
        async for item in items:
            self._report_done(done, total)
            yield item
            done += 1
        self.check()

    def _report_done(self, done: int, total: int | None) -> None:
        if not done:
            self.check()
        elif total is None:
            self.progress(None, f"{done} done")
        else:
            self.progress(min(100, done * 100 // max(1, total)), f"{done} of {total}")


def _length(items: Iterable[object]) -> int | None:
    return len(items) if isinstance(items, Sized) else None
