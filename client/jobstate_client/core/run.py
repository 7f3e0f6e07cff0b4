"""A run: one attempt from its start to its end, as the code that does the work sees it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core import operations, validation
from jobstate_client.core.documents import seconds
from jobstate_client.core.job_failure import IsRetryable, JobFailure, fail_request
from jobstate_client.core.late_usage import LATE
from jobstate_client.core.limits import WORKER_BYTES_MAX
from jobstate_client.core.operations import JobRef
from jobstate_client.core.report_queue import ATTEMPT_OVER, AttemptReports, Ending, report
from jobstate_client.core.values import Job, NewJob, Span

T = TypeVar("T")

log = logging.getLogger("jobstate_client")

PATIENCE_S = 120.0
"""How long a run tries to tell how it ended while the server is away. Its work is worth that."""

INTERRUPTED_PATIENCE_S = 5.0
"""The same for a run that was interrupted: whoever stops a program waits no longer."""


OUTCOME_UNKNOWN = (e.TransportError, e.ClientClosed, e.ClientForked)
"""After one of these the server does not know, and telling it something else would fail as well."""

TRANSIENT = (e.TransportError, e.TryLater, e.InternalError)
"""What may be over when the same call is made again."""


Heartbeat = Span | Literal["auto"] | None
"""Silence after which a run says that it is alive: a span, what the job type asks for, or None for never."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How runs are held."""

    worker: str
    heartbeat: Heartbeat = "auto"
    patience: Span = PATIENCE_S
    is_retryable: IsRetryable | None = None

    def __post_init__(self) -> None:
        """Judge them: when a run ends it is too late."""
        validation.message(self.worker, "worker", WORKER_BYTES_MAX)
        if self.heartbeat != "auto" and self.heartbeat is not None and seconds(self.heartbeat, "heartbeat") <= 0:
            raise ValueError("heartbeat must be more than 0 seconds, None for never, or auto")
        if seconds(self.patience, "patience") < 0:
            raise ValueError("patience must be 0 seconds or more")
        if self.is_retryable is not None and not callable(self.is_retryable):
            raise TypeError("is_retryable must be a function of an exception")


def default_worker() -> str:
    """Who this process is, for people."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}"


class RunStart:
    """What a run begins with: the same calls, with the same request ids, however often they are made."""

    def __init__(self, job: JobRef | NewJob) -> None:
        self.request_id = operations.new_request_id()
        """Of the start."""
        self.job: JobRef = ""
        """What to start, once it has been created."""
        self.creation: NewJob | None = None
        """What to create before, until that has been done."""
        if isinstance(job, NewJob):
            self.creation = replace(job, request_id=job.request_id or operations.new_request_id())
        else:
            self.job = job

    @property
    def has_started(self) -> bool:
        """Whether the start may have been made."""
        return self.creation is None


class Run:
    """One attempt of a job, under way. Every method returns at once; reports travel in the background.

    Of reports that wait the newest wins, metadata is merged key by key, and the last is always delivered before the
    end. While nothing is reported the server is told now and then that the run is alive.
    """

    def __init__(
        self, job: Job, line: AttemptReports, send: Callable[[AttemptReports, pb.UpdateProgressRequest], None]
    ) -> None:
        self.job = job
        """The job as the start returned it."""
        self._result: Mapping[str, Any] | None = None
        self._result_count: int | None = None
        self._line = line
        self._send = send
        self._tokens: int | None = None
        self._cost: float | None = None
        self._request_id = operations.new_request_id()
        """Of the run's end, which may be told more than once."""

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
        """What the work gave; kept when the run ends well. It is read then; 64 KiB at most."""
        return self._result

    @result.setter
    def result(self, value: Mapping[str, Any] | None) -> None:
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"result must be a dict or None, not a {type(value).__name__}")
        self._result = value

    @property
    def result_count(self) -> int | None:
        """How many results the work gave; kept when the run ends well."""
        return self._result_count

    @result_count.setter
    def result_count(self, value: int | None) -> None:
        self._result_count = None if value is None else validation.result_count(value)

    @property
    def is_over(self) -> bool:
        """Whether the server has refused a report because the attempt is over: work that goes on is for nothing."""
        return self._line.gone is not None

    def progress(self, percent: float | None = None, message: str | None = None, /, **metadata: Any) -> None:
        """Report progress. ``metadata`` is merged into the job's, and None removes a key.

        Raises:
            JobCancelled, AttemptSuperseded, TransitionNotAllowed: an earlier report was refused, as the attempt is
                over. Let it pass through, and the run ends without a word.
            InvalidField: something in this report is too large, too long or nested too deep, or an earlier one was
                not acceptable together with the metadata that the job had.
            TypeError, ValueError: something in this report cannot be sent.
            ClientClosed: the client was closed.
        """
        self._send(self._line, report(self._line, percent, message, metadata, None, None))

    def usage(self, *, tokens: int | None = None, cost: float | None = None) -> None:
        """Report what the attempt has used so far, in total.

        Raises like ``progress``, and ValueError for what is negative, not a number, or above 10**15 tokens or a cost
        of 10**9.
        """
        told = report(self._line, None, None, {}, tokens, cost)
        self._tokens = self._tokens if tokens is None else told.usage.tokens
        self._cost = self._cost if cost is None else told.usage.cost
        self._send(self._line, told)

    def check(self) -> None:
        """Raise, like ``progress``, if the attempt is known to be over, and report nothing."""
        self._line.raise_refusal()

    def track(self, items: Iterable[T], total: int | None = None) -> Iterator[T]:
        """Iterate over the items and report how far that has come, counting an item when the next is asked for.

        ``total`` is the number of items, where they do not have a length. Without either, only their count is told.
        """
        size = total if total is not None else _length(items)
        for done, item in enumerate(items):
            self._tell_done(done, size)
            yield item
        self.check()

    async def track_async(self, items: AsyncIterable[T], total: int | None = None) -> AsyncIterator[T]:
        """``track`` for an asynchronous iterable."""
        done = 0
        async for item in items:
            self._tell_done(done, total)
            yield item
            done += 1
        self.check()

    def _tell_done(self, done: int, total: int | None) -> None:
        if not done:
            self.check()
        elif total is None:
            self.progress(None, f"{done} done")
        else:
            self.progress(min(100, done * 100 // max(1, total)), f"{done} of {total}")

    def _complete_request(self) -> pb.CompleteRequest:
        call = operations.complete(
            self.job,
            result=self._result,
            result_count=self._result_count,
            tokens=self._tokens,
            cost=self._cost,
            request_id=self._request_id,
        )
        assert isinstance(call.request, pb.CompleteRequest)
        return call.request

    def _fail_requests(self, error: BaseException, is_retryable: IsRetryable | None) -> Iterator[pb.FailRequest]:
        """What tells this failure: with everything that is known, and the least, should that be refused."""
        whole, plain = fail_request(self.job, self._request_id + "-failed", error, is_retryable)
        if self._tokens is not None:
            whole.usage.tokens = self._tokens
        if self._cost is not None:
            whole.usage.cost = self._cost
        yield whole
        yield plain


def _length(items: Iterable[object]) -> int | None:
    return len(items) if isinstance(items, Sized) else None


class Delivery(NamedTuple):
    """An ending that is to be delivered."""

    ending: Ending
    patience_s: float


Deliveries = Generator[Delivery, Exception | None, None]
"""Yields what is to be delivered, and is sent what it was refused with, or None."""


def not_begun(interruption: BaseException) -> JobFailure:
    """How an attempt failed that was claimed by a run whose body did not begin.

    It costs a retry, as the server's noticing it would, only later. The next worker may have it at once.
    """
    cause = type(interruption).__name__
    return JobFailure(f"{cause} while the run began; nothing was done", code="NOT_BEGUN", retry_delay=0.0)


def finish_run(run: Run, error: BaseException | None, terms: RunOptions, patience_s: float | None = None) -> Deliveries:
    """End a run whose body has ended, with an exception or without. Begun again after an interrupt, it goes on.

    ``patience_s`` stands in for that of the terms.

    Raises:
        JobStateError: the body ended well, but that could not be told, or does not count any more.
        Exception: the result cannot be sent. The attempt has failed with this.
    """
    line, patience_s = run._line, seconds(terms.patience) if patience_s is None else patience_s
    if error is not None and not isinstance(error, Exception):
        patience_s = min(patience_s, INTERRUPTED_PATIENCE_S)
    trouble: Exception | None = None
    try:
        yield from _deliver_end(run, error, terms, patience_s)
    except Exception as raised:
        trouble = raised
    if isinstance(line.gone, LATE):
        yield from _deliver_late_usage(run, patience_s)
    if trouble is not None:
        raise trouble


def _deliver_end(run: Run, error: BaseException | None, terms: RunOptions, patience_s: float) -> Deliveries:
    line = run._line
    if error is None:
        refused = yield from _complete(run, patience_s)
        if refused is None:
            # Last, so that a report that was not acceptable is not lost in silence, nor the work with it.
            line.raise_refusal()
            return
        if line.gone is None and not isinstance(refused, OUTCOME_UNKNOWN):
            yield from _fail(run, refused, terms, patience_s)
        raise refused
    if line.gone is not None:
        return
    untold = yield from _fail(run, error, terms, patience_s)
    if untold is not None:
        error.add_note(f"The job was not told of this: {untold}")
        log.warning("the failure of job %s could not be told: %s", run.id, untold)


def _complete(run: Run, patience_s: float) -> Generator[Delivery, Exception | None, Exception | None]:
    if run._line.gone is not None:
        return run._line.gone
    try:
        request = run._complete_request()
    except Exception as error:
        # Whatever the result is made of: it is read here, in the thread of whoever gave it.
        return error
    return (yield Delivery(request, patience_s))


def _fail(
    run: Run, error: BaseException, terms: RunOptions, patience_s: float
) -> Generator[Delivery, Exception | None, Exception | None]:
    refused: Exception | None = None
    for request in run._fail_requests(error, terms.is_retryable):
        refused = yield Delivery(request, patience_s)
        if refused is None or isinstance(refused, (*OUTCOME_UNKNOWN, *ATTEMPT_OVER)):
            break
    return refused


def _deliver_late_usage(run: Run, patience_s: float) -> Deliveries:
    """The attempt is over, and what was refused had its usage in it: that is booked all the same."""
    if run._tokens is None and run._cost is None:
        return
    request = operations.report_usage(run.job, tokens=run._tokens, cost=run._cost).request
    assert isinstance(request, pb.ReportUsageRequest)
    untold = yield Delivery(request, patience_s)
    if untold is not None:
        log.warning(
            "the usage of job %s, attempt %d (%s tokens, cost %s) could not be told: %s",
            *(run.id, run.job.attempt, run._tokens, run._cost, untold),
        )


def is_lost(error: BaseException) -> bool:
    """Whether an error says that an attempt is somebody else's, or nobody's."""
    return isinstance(error, ATTEMPT_OVER)
