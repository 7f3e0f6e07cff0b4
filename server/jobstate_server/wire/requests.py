"""Requests as commands and filters. What is read here has been validated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import Message

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter, JobFilter, Order
from jobstate_server.domain.job import Document, JobState, Usage, cost_to_nano
from jobstate_server.wire import documents
from jobstate_server.wire.times import span_from, time_from


class Caller(Protocol):
    """Who calls, as far as commands tell."""

    principal: str
    actor: str


NewId = Callable[[], str]
"""Makes an id for a job whose creator leaves it to the server."""


def request_of(caller: Caller, rpc: str, message: Message, request_id: str) -> c.Request | None:
    """The idempotency key of a call, None when the caller gave none.

    The digest is of the deterministic re-serialisation, because two encodings of one message may differ.
    """
    if not request_id:
        return None
    digest = hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest()
    return c.Request(caller.principal, request_id, rpc, digest)


def _usage(message: job_pb2.Usage) -> Usage:
    return Usage(
        tokens=message.tokens if message.HasField("tokens") else None,
        cost_nano=cost_to_nano(message.cost) if message.HasField("cost") else None,
    )


_NO_USAGE = Usage()


def _attempt_fields(
    request: pb.UpdateProgressRequest | pb.CompleteRequest | pb.FailRequest,
) -> tuple[int | None, Usage]:
    attempt = request.attempt if request.HasField("attempt") else None
    return attempt, _usage(request.usage) if request.HasField("usage") else _NO_USAGE


def create_command(request: pb.CreateRequest, caller: Caller, new_id: NewId) -> c.Create:
    """Create; makes the id when the caller leaves it to the server."""
    timeout = span_from(request.timeout) if request.HasField("timeout") else None
    return c.Create(
        job_id=request.id or new_id(),
        actor=caller.actor,
        principal=caller.principal,
        request=request_of(caller, "Create", request, request.request_id),
        job_type=request.job_type,
        source_id=request.source_id,
        metadata=_document(request, "metadata", documents.METADATA_BYTES_MAX),
        max_retries=request.max_retries if request.HasField("max_retries") else None,
        timeout=timeout or None,
        no_timeout=timeout == 0,
    )


def batch_create_command(request: pb.BatchCreateRequest, caller: Caller, new_id: NewId) -> c.BatchCreate:
    """BatchCreate."""
    creates, refusals = [], []
    for index, item in enumerate(request.requests):
        try:
            creates.append(create_command(item, caller, new_id))
        except InvalidField as refusal:
            refusals.append(refusal.within(f"requests[{index}]"))
            if len(refusals) == documents.PROBLEMS_MAX:
                break
    if refusals:
        raise refusals[0].joined(refusals[1:])
    return c.BatchCreate(job_id=creates[0].job_id, actor=caller.actor, creates=tuple(creates))


def start_command(request: pb.StartRequest, caller: Caller, _new_id: NewId) -> c.Start:
    """Start."""
    return c.Start(
        job_id=request.id,
        actor=caller.actor,
        request=request_of(caller, "Start", request, request.request_id),
        worker=request.worker,
    )


def progress_command(request: pb.UpdateProgressRequest, caller: Caller, _new_id: NewId) -> c.UpdateProgress:
    """UpdateProgress."""
    attempt, usage = _attempt_fields(request)
    return c.UpdateProgress(
        job_id=request.id,
        actor=caller.actor,
        attempt=attempt,
        usage=usage,
        progress=request.progress if request.HasField("progress") else None,
        message=request.message if request.HasField("message") else None,
        metadata=_document(request, "metadata", documents.METADATA_BYTES_MAX),
    )


def complete_command(request: pb.CompleteRequest, caller: Caller, _new_id: NewId) -> c.Complete:
    """Complete."""
    attempt, usage = _attempt_fields(request)
    return c.Complete(
        job_id=request.id,
        actor=caller.actor,
        request=request_of(caller, "Complete", request, request.request_id),
        attempt=attempt,
        usage=usage,
        result_count=request.result_count if request.HasField("result_count") else None,
        result=_result(request),
    )


def fail_command(request: pb.FailRequest, caller: Caller, _new_id: NewId) -> c.Fail:
    """Fail."""
    attempt, usage = _attempt_fields(request)
    return c.Fail(
        job_id=request.id,
        actor=caller.actor,
        request=request_of(caller, "Fail", request, request.request_id),
        attempt=attempt,
        usage=usage,
        code=request.error.code,
        message=request.error.message,
        details=_document(request.error, "details", documents.DETAILS_BYTES_MAX, "error.details"),
        retryable=request.retryable if request.HasField("retryable") else True,
        retry_delay=span_from(request.retry_delay) if request.HasField("retry_delay") else None,
    )


def report_usage_command(request: pb.ReportUsageRequest, caller: Caller, _new_id: NewId) -> c.ReportUsage:
    """ReportUsage."""
    return c.ReportUsage(job_id=request.id, actor=caller.actor, attempt=request.attempt, usage=_usage(request.usage))


def retry_command(request: pb.RetryRequest, caller: Caller, _new_id: NewId) -> c.Retry:
    """Retry."""
    return c.Retry(
        job_id=request.id,
        actor=caller.actor,
        request=request_of(caller, "Retry", request, request.request_id),
        immediately=request.immediately,
    )


def cancel_command(request: pb.CancelRequest, caller: Caller, _new_id: NewId) -> c.Cancel:
    """Cancel."""
    return c.Cancel(
        job_id=request.id,
        actor=caller.actor,
        request=request_of(caller, "Cancel", request, request.request_id),
        reason=request.reason,
    )


def _result(request: pb.CompleteRequest) -> Document:
    encoded = _document(request, "result", documents.RESULT_BYTES_MAX)
    return encoded or (documents.EMPTY_RESULT if request.HasField("result") else b"")


def _document(message: Message, field: str, bytes_max: int, path: str = "") -> Document:
    if not message.HasField(field):
        return b""
    return documents.encode(getattr(message, field), path or field, bytes_max)


_DOCUMENTS: dict[type[Message], tuple[str, int]] = {
    pb.CreateRequest: ("metadata", documents.METADATA_BYTES_MAX),
    pb.UpdateProgressRequest: ("metadata", documents.METADATA_BYTES_MAX),
    pb.CompleteRequest: ("result", documents.RESULT_BYTES_MAX),
    pb.FailRequest: ("error.details", documents.DETAILS_BYTES_MAX),
}
"""The free JSON of each request."""


def document_problems(request: Message) -> tuple[tuple[str, str], ...]:
    """What is wrong with the request's free JSON: each field, and its problem."""
    if type(request) not in _DOCUMENTS:
        return ()
    path, bytes_max = _DOCUMENTS[type(request)]
    *outer, field = path.split(".")
    message = request
    for name in outer:
        message = getattr(message, name)
    try:
        _document(message, field, bytes_max, path)
    except InvalidField as refusal:
        return refusal.violations
    return ()


def job_filter(request: pb.ListRequest, principal: str | None, ahead: int = 0) -> JobFilter:
    """Which jobs a List wants.

    Args:
        ahead: by how much the store's time is ahead of the clock that callers go by.
    """
    return JobFilter(
        states=tuple(sorted({JobState(state) for state in request.states})),
        job_types=tuple(sorted(set(request.job_types))),
        source_ids=(request.source_id,) if request.source_id else (),
        create_time_from=time_from(request.create_time_from) + ahead if request.HasField("create_time_from") else None,
        create_time_to=time_from(request.create_time_to) + ahead if request.HasField("create_time_to") else None,
        principal=principal,
    )


def list_order(request: pb.ListRequest) -> Order:
    """In which order a List wants them."""
    oldest_first = request.order == pb.LIST_ORDER_CREATE_TIME_ASC
    return Order.OLDEST_FIRST if oldest_first else Order.NEWEST_FIRST


def event_filter(request: pb.WatchEventsRequest, principal: str | None) -> EventFilter:
    """Which events a watch wants."""
    return EventFilter(
        job_ids=frozenset(request.job_ids),
        job_types=frozenset(request.job_types),
        source_ids=frozenset(request.source_ids),
        types=frozenset(EventType(type_) for type_ in request.types),
        principal=principal,
    )
