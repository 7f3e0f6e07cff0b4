"""A run: one attempt from its start to its end, as the code that does the work sees it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core import operations
from jobstate_client.core.documents import seconds
from jobstate_client.core.failures import IsRetryable, fail_request
from jobstate_client.core.outbox import GONE, Ending, Line, report
from jobstate_client.core.values import Job, Span

T = TypeVar("T")

log = logging.getLogger("jobstate_client")

HEARTBEAT_S = 30.0
"""Silence after which a run says that it is alive: a tenth of the shortest stale threshold that servers come with."""

PATIENCE_S = 120.0
"""How long a run tries to tell how it ended while the server is away. Its work is worth that."""

INTERRUPTED_PATIENCE_S = 5.0
"""The same for a run that was interrupted: whoever stops a program waits no longer."""


PASSING = (e.TransportError, e.TryLater, e.InternalError)
"""What may be over when the same call is made again."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How runs are held."""

    worker: str
    heartbeat: Span | None = HEARTBEAT_S
    patience: Span = PATIENCE_S
    is_retryable: IsRetryable | None = None

    @property
    def heartbeat_s(self) -> float | None:
        """Seconds of silence before a heartbeat."""
        return None if self.heartbeat is None else seconds(self.heartbeat)


def default_worker() -> str:
    """Who this process is, for people."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}"


class Run:
    """One attempt of a job, under way. Every method returns at once; reports travel in the background.

    Of reports that wait the newest wins, metadata is merged key by key, and the last is always delivered before the
    end. While nothing is reported the server is told now and then that the run is alive.
    """

    def __init__(self, job: Job, line: Line, send: Callable[[Line, pb.UpdateProgressRequest], None]) -> None:
        self.job = job
        """The job as the start returned it."""
        self.result: Mapping[str, Any] | None = None
        """What the work gave; kept when the run ends well. 64 KiB at most."""
        self.result_count: int | None = None
        """How many results the work gave; kept when the run ends well."""
        self._line = line
        self._send = send
        self._tokens: int | None = None
        self._cost: float | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def attempt(self) -> int:
        """The number of this attempt."""
        return self.job.attempt

    @property
    def is_over(self) -> bool:
        """Whether the server has refused a report because the attempt is over: work that goes on is for nothing."""
        return self._line.gone is not None

    def progress(self, percent: float | None = None, message: str | None = None, /, **metadata: Any) -> None:
        """Report progress. ``metadata`` is merged into the job's, and None removes a key.

        Raises:
            JobCancelled, AttemptSuperseded, TransitionNotAllowed: an earlier report was refused, as the attempt is
                over. Let it pass through, and the run ends without a word.
            InvalidField: something in this or an earlier report is not acceptable.
        """
        whole = None if percent is None else int(percent)
        if whole is not None and not 0 <= whole <= 100:
            raise ValueError(f"percent must be between 0 and 100, not {percent}")
        self._send(self._line, report(self._line, whole, message, metadata, None, None))

    def usage(self, *, tokens: int | None = None, cost: float | None = None) -> None:
        """Report what the attempt has used so far, in total. Raises like ``progress``."""
        self._tokens = self._tokens if tokens is None else tokens
        self._cost = self._cost if cost is None else cost
        self._send(self._line, report(self._line, None, None, {}, tokens, cost))

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
        count = self.result_count
        call = operations.complete(
            self.job, result=self.result, result_count=count, tokens=self._tokens, cost=self._cost
        )
        assert isinstance(call.request, pb.CompleteRequest)
        return call.request

    def _fail_request(self, error: BaseException, is_retryable: IsRetryable | None) -> pb.FailRequest:
        return fail_request(self.job, error, is_retryable, self._tokens, self._cost)


def _length(items: Iterable[object]) -> int | None:
    return len(items) if isinstance(items, Sized) else None


class Delivery(NamedTuple):
    """An ending that is to be delivered."""

    ending: Ending
    patience_s: float


Conclusion = Generator[Delivery, Exception | None, None]
"""Yields what is to be delivered, and is sent what it was refused with, or None."""


def conclude(run: Run, error: BaseException | None, terms: Terms) -> Conclusion:
    """End a run whose body has ended, with an exception or without.

    Raises:
        JobStateError: the body ended well, but that could not be told, or does not count any more.
        TypeError, ValueError: the result cannot be sent. The attempt has failed.
    """
    line, patience_s = run._line, seconds(terms.patience)
    if error is None:
        refused = yield from _complete(run, patience_s)
        if refused is None:
            # Last, so that a report that was not acceptable is not lost in silence, nor the work with it.
            line.raise_refusal()
            return
        if line.gone is None and not isinstance(refused, e.TransportError):
            yield Delivery(run._fail_request(refused, terms.is_retryable), patience_s)
        raise refused
    if line.gone is not None:
        return
    if not isinstance(error, Exception):
        patience_s = min(patience_s, INTERRUPTED_PATIENCE_S)
    refused = yield Delivery(run._fail_request(error, terms.is_retryable), patience_s)
    if isinstance(refused, e.InvalidField):
        # Something beside the failure was too much. That it failed has to be told all the same.
        plain = operations.fail(run.job, type(error).__name__, str(refused)).request
        assert isinstance(plain, pb.FailRequest)
        refused = yield Delivery(plain, patience_s)
    if refused is not None:
        error.add_note(f"The job was not told of this: {refused}")
        log.warning("the failure of job %s could not be told: %s", run.id, refused)


def _complete(run: Run, patience_s: float) -> Generator[Delivery, Exception | None, Exception | None]:
    if run._line.gone is not None:
        return run._line.gone
    try:
        request = run._complete_request()
    except (TypeError, ValueError) as error:
        return error
    return (yield Delivery(request, patience_s))


def is_lost(error: BaseException) -> bool:
    """Whether an error says that an attempt is somebody else's, or nobody's."""
    return isinstance(error, GONE)
