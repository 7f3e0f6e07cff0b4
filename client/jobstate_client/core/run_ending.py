"""How a run ends: which requests report it, in which order, and what follows when one is refused."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import NamedTuple

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core import dispatch, operations
from jobstate_client.core.attempt_reports import ATTEMPT_OVER, Ending
from jobstate_client.core.documents import seconds
from jobstate_client.core.job_failure import IsRetryable, bare_request, fail_requests
from jobstate_client.core.late_usage import LATE
from jobstate_client.core.releasing import Release
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, Run, RunOptions

log = logging.getLogger("jobstate_client")

UNDELIVERABLE = (e.TransportError, e.ClientClosed, e.ClientForked)
"""After one of these errors another request would fail in the same way."""


class Delivery(NamedTuple):
    """A request to deliver, and how long to try."""

    ending: Ending
    patience_s: float


Deliveries = Generator[Delivery, Exception | None, None]
"""Yields each request to deliver, and is sent the error that it was refused with, or None."""

_OneDelivery = Generator[Delivery, Exception | None, BaseException | None]
"""The same, and returns the error in the end."""


def not_begun(interruption: BaseException) -> Release:
    """The release of an attempt that was claimed, but whose work did not begin. The next worker may have it at once."""
    return Release(reason=f"{type(interruption).__name__} while the run began; nothing was done")


def finish_run(
    run: Run, error: BaseException | None, options: RunOptions, patience_s: float | None = None
) -> Deliveries:
    """End a run whose work has ended, with ``error`` or without. Called again after an interrupt, it continues.

    ``patience_s`` replaces the patience of ``options``.

    The result and the exception are the caller's, and reading them may raise anything. An end is reported all the same.

    Raises:
        JobStateError: the work succeeded, but that could not be reported, or the attempt is over.
        BaseException: the result cannot be sent. The attempt has failed with this exception.
        SystemExit, KeyboardInterrupt: the code that describes a failure raised it.
    """
    reports, patience_s = run._reports, seconds(options.patience) if patience_s is None else patience_s
    if error is not None and not isinstance(error, Exception):
        patience_s = min(patience_s, INTERRUPTED_PATIENCE_S)
    raised: Exception | None = None
    try:
        yield from _deliver_end(run, error, options, patience_s)
    except Exception as problem:
        raised = problem
    if isinstance(reports.over, LATE):
        yield from _deliver_late_usage(run, patience_s)
    if raised is not None:
        raise raised


def _deliver_end(run: Run, error: BaseException | None, options: RunOptions, patience_s: float) -> Deliveries:
    reports = run._reports
    if error is None:
        refused = yield from _complete(run, patience_s)
        if refused is None:
            # Checked last, so that a rejected report is not lost silently, and the finished work is not lost with it.
            reports.raise_error()
            return
        if reports.over is None and not isinstance(refused, UNDELIVERABLE):
            yield from _fail(run, refused, options, patience_s)
        raise refused
    if reports.over is not None:
        return
    if isinstance(error, Release):
        refused = yield from _release(run, error, patience_s)
        if refused is None or isinstance(refused, (*UNDELIVERABLE, *ATTEMPT_OVER)):
            if refused is not None:
                log.warning("job %s could not be released: %s", run.id, refused)
            return
        # It has been released too often, or what its author made of it cannot be sent.
        error = refused
    refused = yield from _fail(run, error, options, patience_s)
    if refused is not None:
        BaseException.add_note(error, f"This failure could not be reported: {refused}")
        log.warning("the failure of job %s could not be reported: %s", run.id, refused)


def _complete(run: Run, patience_s: float) -> _OneDelivery:
    if run._reports.over is not None:
        return run._reports.over
    try:
        request = _complete_request(run)
    except BaseException as error:
        # The result is read here, in the caller's own thread.
        return error
    return (yield Delivery(request, patience_s))


def _release(run: Run, release: Release, patience_s: float) -> _OneDelivery:
    try:
        request = _release_request(run, release)
    except BaseException as error:
        return error
    return (yield Delivery(request, patience_s))


def _fail(run: Run, error: BaseException, options: RunOptions, patience_s: float) -> _OneDelivery:
    refused: Exception | None = None
    try:
        requests = _fail_requests(run, error, options.is_retryable)
    except BaseException as problem:
        yield Delivery(bare_request(run.job, run._request_id + "-bare", error, problem), patience_s)
        if isinstance(problem, (SystemExit, KeyboardInterrupt)):
            raise
        return None
    for request in requests:
        refused = yield Delivery(request, patience_s)
        if refused is None or isinstance(refused, (*UNDELIVERABLE, *ATTEMPT_OVER)):
            break
    return refused


def _deliver_late_usage(run: Run, patience_s: float) -> Deliveries:
    """The attempt is over, and its end was refused together with its usage: report the usage alone."""
    if run._tokens is None and run._cost is None:
        return
    request = operations.report_usage(run.job, tokens=run._tokens, cost=run._cost).request
    assert isinstance(request, pb.ReportUsageRequest)
    refused = yield Delivery(request, patience_s)
    if refused is not None:
        log.warning(
            "the usage of job %s, attempt %d (%s tokens, cost %s) could not be reported: %s",
            *(run.id, run.job.attempt, run._tokens, run._cost, refused),
        )


def _complete_request(run: Run) -> pb.CompleteRequest:
    call = operations.complete(
        run.job,
        result=run._result,
        result_count=run._result_count,
        tokens=run._tokens,
        cost=run._cost,
        request_id=run._request_id,
    )
    assert isinstance(call.request, pb.CompleteRequest)
    return call.request


def _release_request(run: Run, release: Release) -> pb.ReleaseRequest:
    call = dispatch.release(
        run.job,
        release.reason,
        delay=release.delay,
        hold_lane=release.hold_lane,
        tokens=run._tokens,
        cost=run._cost,
        request_id=run._request_id + "-released",
    )
    assert isinstance(call.request, pb.ReleaseRequest)
    return call.request


def _fail_requests(run: Run, error: BaseException, is_retryable: IsRetryable | None) -> list[pb.FailRequest]:
    """The request with everything that is known, and the plain one to send if that is refused."""
    full, plain = fail_requests(run.job, run._request_id + "-failed", error, is_retryable)
    if run._tokens is not None:
        full.usage.tokens = run._tokens
    if run._cost is not None:
        full.usage.cost = run._cost
    return [full, plain]


def is_lost(error: BaseException | None) -> bool:
    """Whether an error means that the attempt is over for this worker."""
    return isinstance(error, ATTEMPT_OVER)
