"""Every operation, once: a plain function that makes a ``Call`` of its arguments. Both clients offer these as methods.

Wherever a job is named, its id or a ``Job`` will do; a ``Job`` stands for its id and, in the reports of a worker, for
its attempt. Hand in the one that your own start returned. ``timeout`` is for the whole call, repeats included. Every
change carries a request_id, made for you unless you give one, so that repeating it changes nothing twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import decoding, validation
from jobstate_client.core import values as v
from jobstate_client.core.calls import Call, Page, Pages, report
from jobstate_client.core.documents import duration, struct_from, timestamp
from jobstate_client.core.limits import DETAILS_BYTES_MAX, DOCUMENT_BYTES_MAX
from jobstate_client.core.states import State
from jobstate_client.core.values import Span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Attempt, JobTypes, Stats

JobRef = str | v.Job
"""A job, by its id or as it was told."""

STATE_NUMBERS = {state: number for number, state in decoding.STATES.items()}


def new_request_id() -> str:
    """A request_id that nobody else has."""
    return os.urandom(16).hex()


def id_of(job: JobRef) -> str:
    """The id of a job."""
    return job if isinstance(job, str) else job.id


def _attempt_of(job: JobRef, attempt: int | None) -> int | None:
    if attempt is not None or isinstance(job, str):
        return attempt
    return job.attempt or None


def _usage(tokens: int | None, cost: float | None) -> job_pb2.Usage | None:
    if tokens is None and cost is None:
        return None
    return job_pb2.Usage(
        tokens=None if tokens is None else validation.tokens(tokens),
        cost=None if cost is None else validation.cost(cost),
    )


def _struct(document: Mapping[str, Any] | None, name: str, bytes_max: int = DOCUMENT_BYTES_MAX) -> Any:
    return None if document is None else struct_from(document, name, bytes_max)


def _job(response: Any) -> v.Job:
    return decoding.job(response.job)


def _creation(new: v.NewJob) -> pb.CreateRequest:
    return pb.CreateRequest(
        id=new.id,
        job_type=new.job_type,
        source_id=new.source_id,
        metadata=_struct(new.metadata, "metadata"),
        max_retries=new.max_retries,
        timeout=None if new.attempt_timeout is None else duration(new.attempt_timeout, "attempt_timeout"),
        request_id=new.request_id or new_request_id(),
    )


def create(
    job_type: str | v.NewJob,
    *,
    id: str = "",
    source_id: str = "",
    metadata: Mapping[str, Any] | None = None,
    max_retries: int | None = None,
    attempt_timeout: Span | None = None,
    request_id: str = "",
    timeout: Span | None = None,
) -> Call[v.Job]:
    """Create a job of this type, or as a ``NewJob`` describes it. It is QUEUED.

    Raises:
        JobExists: there is a job with this id.
        UnknownJobType: the server takes no jobs of this type.
        TypeError: there is a ``NewJob``, and something beside it that belongs into it.
    """
    new = job_type
    if not isinstance(new, v.NewJob):
        new = v.NewJob(new, id, source_id, metadata, max_retries, attempt_timeout, request_id)
    elif id or source_id or request_id or any(x is not None for x in (metadata, max_retries, attempt_timeout)):
        raise TypeError("a NewJob says all of a job: put the rest into it, or into a copy by dataclasses.replace")
    return Call("Create", _creation(new), _job, timeout)


def create_many(jobs: Iterable[v.NewJob], *, timeout: Span | None = None) -> Call[tuple[v.CreatedJob, ...]]:
    """Create up to 1,000 jobs, all of them or none, in this order.

    Raises:
        JobExists: one of the ids is taken.
    """
    request = pb.BatchCreateRequest(requests=[_creation(new) for new in jobs])
    return Call("BatchCreate", request, _created_jobs, timeout)


def _created_jobs(response: pb.BatchCreateResponse) -> tuple[v.CreatedJob, ...]:
    return tuple(v.CreatedJob(each.id, each.version) for each in response.jobs)


def get(job: JobRef, *, timeout: Span | None = None) -> Call[v.Job]:
    """The job as it is now.

    Raises:
        JobNotFound: there is none.
    """
    return Call("Get", pb.GetRequest(id=id_of(job)), _job, timeout)


def attempts(job: JobRef, *, timeout: Span | None = None) -> Call[tuple[Attempt, ...]]:
    """The ended attempts of a job, oldest first: the latest 100, or fewer when they exceed 1 MiB.

    They are numbered from 1, so that the first one's number tells how many older ones are left out.

    Raises:
        JobNotFound: there is no such job.
    """
    return Call("Get", pb.GetRequest(id=id_of(job), include_attempts=True), report("attempts"), timeout)


def list_jobs(
    *,
    states: Iterable[State | str] = (),
    job_types: Iterable[str] = (),
    source_id: str = "",
    created_from: datetime | None = None,
    created_before: datetime | None = None,
    oldest_first: bool = False,
    page_size: int = 0,
    timeout: Span | None = None,
) -> Pages[v.Job]:
    """Iterate over the jobs that match every filter given, newest first; pages are fetched as you go.

    ``timeout`` is for each page. A job that exists throughout is told exactly once, as it was when its page was read.
    """
    request = pb.ListRequest(
        states=[STATE_NUMBERS[State.wanted(state)] for state in validation.names(states, "states")],  # type: ignore[misc]
        job_types=validation.names(job_types, "job_types"),
        source_id=source_id,
        create_time_from=None if created_from is None else timestamp(created_from),
        create_time_to=None if created_before is None else timestamp(created_before),
        page_size=page_size,
        order=pb.LIST_ORDER_CREATE_TIME_ASC if oldest_first else pb.LIST_ORDER_CREATE_TIME_DESC,
    )
    return Pages(Call("List", request, _page, timeout))


def _page(response: pb.ListResponse) -> Page[v.Job]:
    return Page(tuple(decoding.job(each) for each in response.jobs), response.next_page_token)


def start(job: JobRef, *, worker: str = "", request_id: str = "", timeout: Span | None = None) -> Call[v.Job]:
    """Begin the first attempt of a job, or claim one that the server resumed. Of all who try, one succeeds.

    Keep the job returned: it stands for this attempt in every report.

    Raises:
        TransitionNotAllowed: somebody else has it, or the job is in a state where nothing can be started.
        JobNotFound: there is no such job.
    """
    request = pb.StartRequest(id=id_of(job), worker=worker, request_id=request_id or new_request_id())
    return Call("Start", request, _job, timeout)


def progress(
    job: JobRef,
    percent: int | None = None,
    message: str | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    tokens: int | None = None,
    cost: float | None = None,
    attempt: int | None = None,
    timeout: Span | None = None,
) -> Call[v.Job]:
    """Report how far the running attempt is; with nothing to report, that it is alive.

    ``metadata`` is merged into the job's, key by key, and None removes a key. ``tokens`` and ``cost`` are totals of the
    attempt so far. The job returned has no result, and metadata only if this call set it.

    Raises:
        AttemptSuperseded, TransitionNotAllowed: the attempt is over. Stop.
        JobCancelled: likewise, because the job was cancelled.
    """
    request = pb.UpdateProgressRequest(
        id=id_of(job),
        progress=None if percent is None else validation.percent(percent),
        message=message,
        metadata=_struct(metadata, "metadata"),
        usage=_usage(tokens, cost),
        attempt=_attempt_of(job, attempt),
    )
    return Call("UpdateProgress", request, _job, timeout)


def complete(
    job: JobRef,
    *,
    result: Mapping[str, Any] | None = None,
    result_count: int | None = None,
    tokens: int | None = None,
    cost: float | None = None,
    attempt: int | None = None,
    request_id: str = "",
    timeout: Span | None = None,
) -> Call[v.Job]:
    """End the running attempt, and with it the job, well.

    Raises:
        AttemptSuperseded, TransitionNotAllowed: the attempt is over. Drop its results.
        JobCancelled: likewise, because the job was cancelled.
    """
    request = pb.CompleteRequest(
        id=id_of(job),
        result_count=None if result_count is None else validation.result_count(result_count),
        result=_struct(result, "result"),
        usage=_usage(tokens, cost),
        attempt=_attempt_of(job, attempt),
        request_id=request_id or new_request_id(),
    )
    return Call("Complete", request, _job, timeout)


def fail(  # noqa: PLR0913
    job: JobRef,
    code: str = "",
    message: str = "",
    *,
    retryable: bool | None = None,
    retry_delay: Span | None = None,
    details: Mapping[str, Any] | None = None,
    tokens: int | None = None,
    cost: float | None = None,
    attempt: int | None = None,
    request_id: str = "",
    timeout: Span | None = None,
) -> Call[v.Job]:
    """End the running attempt with an error. The job returned tells what follows: RETRYING, or the end.

    Trying again is thought to help unless ``retryable`` is False. ``retry_delay`` replaces the job type's wait.

    Raises:
        AttemptSuperseded, TransitionNotAllowed: the attempt is over already.
        JobCancelled: likewise, because the job was cancelled.
    """
    request = pb.FailRequest(
        id=id_of(job),
        error=pb.FailureReport(code=code, message=message, details=_struct(details, "details", DETAILS_BYTES_MAX)),
        retryable=retryable,
        retry_delay=None if retry_delay is None else duration(retry_delay, "retry_delay"),
        usage=_usage(tokens, cost),
        attempt=_attempt_of(job, attempt),
        request_id=request_id or new_request_id(),
    )
    return Call("Fail", request, _job, timeout)


def report_usage(
    job: JobRef,
    *,
    tokens: int | None = None,
    cost: float | None = None,
    attempt: int | None = None,
    timeout: Span | None = None,
) -> Call[v.Job]:
    """Tell what an attempt has used in total, at any time: it may have ended, and the job may be final.

    ``attempt`` is that of the ``Job`` given, and has to be named with an id. Totals only grow, so that a repeat adds
    nothing. It is no sign of life and claims nothing. Runs do it by themselves when a report that told usage was
    refused because the attempt was over.

    Raises:
        InvalidField: the job has had no such attempt, or neither ``tokens`` nor ``cost`` is given.
        JobNotFound: there is no such job.
    """
    request = pb.ReportUsageRequest(
        id=id_of(job), attempt=_attempt_of(job, attempt) or 0, usage=_usage(tokens, cost) or job_pb2.Usage()
    )
    return Call("ReportUsage", request, _job, timeout)


def retry(job: JobRef, *, immediately: bool = False, request_id: str = "", timeout: Span | None = None) -> Call[v.Job]:
    """Send a job that rests in FAILED back to work, or with ``immediately`` skip the rest of its wait.

    Raises:
        RetryNotAllowed: it is PERMANENTLY_FAILED.
        TransitionNotAllowed: it has not failed.
    """
    request = pb.RetryRequest(id=id_of(job), immediately=immediately, request_id=request_id or new_request_id())
    return Call("Retry", request, _job, timeout)


def cancel(job: JobRef, reason: str = "", *, request_id: str = "", timeout: Span | None = None) -> Call[v.Job]:
    """End a job before it is done. Its worker learns of it with the next report.

    Raises:
        TransitionNotAllowed: it has ended already.
    """
    request = pb.CancelRequest(id=id_of(job), reason=reason, request_id=request_id or new_request_id())
    return Call("Cancel", request, _job, timeout)


def stats(job_types: Iterable[str] = (), *, timeout: Span | None = None) -> Call[Stats]:
    """The jobs summed up, by type and in total. Costs the same however many there are."""
    return Call(
        "GetStats", pb.GetStatsRequest(job_types=validation.names(job_types, "job_types")), report("stats"), timeout
    )


def job_types(*, timeout: Span | None = None) -> Call[JobTypes]:
    """The policies in force."""
    return Call("ListJobTypes", pb.ListJobTypesRequest(), report("job_types"), timeout)
