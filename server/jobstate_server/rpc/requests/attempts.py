"""The requests about an attempt: Start, UpdateProgress, Complete, Fail and ReportUsage."""

from __future__ import annotations

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain import limits
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.job import Usage, cost_to_nano
from jobstate_server.domain.limits import RETRY_DELAY_MAX
from jobstate_server.rpc.requests.keys import NewId, request_key
from jobstate_server.rpc.requests.problems import Problems
from jobstate_server.wire import documents
from jobstate_server.wire.times import span_from

# HasField looks a field up by its name, which takes three times as long as reading it. So of numbers and texts it is
# asked only where the value is the default.

_NO_USAGE = Usage()


def start(request: pb.StartRequest, caller: Caller, _new_id: NewId) -> c.Start:
    """The command in a Start. Raises InvalidField."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.text("worker", request.worker, limits.WORKER_BYTES_MAX)
    problems.request_id(request.request_id)
    problems.refuse()
    return c.Start(request.id, caller, request_key(caller, "Start", request, request.request_id), request.worker)


def update_progress(request: pb.UpdateProgressRequest, caller: Caller, _new_id: NewId) -> c.UpdateProgress:
    """The command in an UpdateProgress. Raises InvalidField."""
    problems = Problems()
    attempt, usage = attempt_and_usage(request, problems)
    progress = request.progress if request.progress or request.HasField("progress") else None
    if progress is not None:
        problems.within("progress", progress, 0, 100)
    message = request.message or ("" if request.HasField("message") else None)
    if message:
        problems.text("message", message, limits.TEXT_BYTES_MAX)
    metadata = b""
    if request.HasField("metadata"):
        metadata = problems.document("metadata", request.metadata, limits.METADATA_BYTES_MAX)
    problems.refuse()
    return c.UpdateProgress(request.id, caller, None, attempt, usage, progress, message, metadata)


def complete(request: pb.CompleteRequest, caller: Caller, _new_id: NewId) -> c.Complete:
    """The command in a Complete. Raises InvalidField."""
    problems = Problems()
    attempt, usage = attempt_and_usage(request, problems)
    result_count = request.result_count if request.result_count or request.HasField("result_count") else None
    if result_count is not None:
        problems.within("result_count", result_count, 0, limits.RESULT_COUNT_MAX)
    problems.request_id(request.request_id)
    result = b""
    if request.HasField("result"):
        result = problems.document("result", request.result, limits.RESULT_BYTES_MAX) or documents.EMPTY_RESULT
    problems.refuse()
    key = request_key(caller, "Complete", request, request.request_id)
    return c.Complete(request.id, caller, key, attempt, usage, result_count, result)


def fail(request: pb.FailRequest, caller: Caller, _new_id: NewId) -> c.Fail:
    """The command in a Fail. Raises InvalidField."""
    problems = Problems()
    attempt, usage = attempt_and_usage(request, problems)
    error = request.error
    problems.text("error.code", error.code, limits.ERROR_CODE_BYTES_MAX)
    problems.text("error.message", error.message, limits.TEXT_BYTES_MAX)
    retry_delay = None
    if request.HasField("retry_delay"):
        problems.span("retry_delay", request.retry_delay, 0, RETRY_DELAY_MAX, "0 to 7 days")
        retry_delay = span_from(request.retry_delay)
        if request.HasField("retryable") and not request.retryable:
            problems.add("retry_delay", "must not be given together with retryable = false")
    problems.request_id(request.request_id)
    details = b""
    if error.HasField("details"):
        details = problems.document("error.details", error.details, limits.DETAILS_BYTES_MAX)
    problems.refuse()
    retryable = request.retryable or not request.HasField("retryable")
    key = request_key(caller, "Fail", request, request.request_id)
    return c.Fail(request.id, caller, key, attempt, usage, error.code, error.message, details, retryable, retry_delay)


def report_usage(request: pb.ReportUsageRequest, caller: Caller, _new_id: NewId) -> c.ReportUsage:
    """The command in a ReportUsage. Raises InvalidField."""
    problems = Problems()
    problems.job_id("id", request.id)
    if request.attempt < 1:
        problems.add("attempt", f"is {request.attempt}, must be 1 or more")
    usage = _usage(request.usage, problems)
    if not (request.usage.HasField("tokens") or request.usage.HasField("cost")):
        problems.add("usage", "must have tokens, cost or both")
    problems.refuse()
    return c.ReportUsage(job_id=request.id, caller=caller, attempt=request.attempt, usage=usage)


def attempt_and_usage(
    request: pb.UpdateProgressRequest | pb.CompleteRequest | pb.FailRequest | pb.ReleaseRequest, problems: Problems
) -> tuple[int | None, Usage]:
    """The fields that all reports of an attempt have: its number and its usage."""
    problems.job_id("id", request.id)
    attempt = request.attempt if request.attempt or request.HasField("attempt") else None
    if attempt is not None and attempt < 1:
        problems.add("attempt", f"is {attempt}, must be 1 or more")
    return attempt, _usage(request.usage, problems) if request.HasField("usage") else _NO_USAGE


def _usage(message: job_pb2.Usage, problems: Problems) -> Usage:
    if not problems.usage(message):
        return _NO_USAGE
    return Usage(
        tokens=message.tokens if message.HasField("tokens") else None,
        cost_nano=cost_to_nano(message.cost) if message.HasField("cost") else None,
    )
