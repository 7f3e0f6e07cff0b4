"""The operations on jobs that exist: each is a function that makes a ``Call``. Both clients offer them as methods.

A job is named by its id or by a ``Job``. In the reports of a worker, a ``Job`` also names its attempt: pass the one
that your own start returned. ``timeout`` is for the whole call with its repeats. Every change has a request_id, which
is generated unless you give one, so that a repeat changes nothing twice.
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
from jobstate_client.core.calls import Call, Page, Pages, decode_with
from jobstate_client.core.documents import duration, struct_from, timestamp
from jobstate_client.core.limits import DETAILS_BYTES_MAX, DOCUMENT_BYTES_MAX
from jobstate_client.core.states import State, WaitReason
from jobstate_client.core.values import Span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Attempt, JobTypes, Stats

JobRef = str | v.HasId
"""A job, or its id."""

STATE_NUMBERS = {state: job_pb2.JobState.ValueType(number) for number, state in decoding.STATES.items()}


_WAIT_REASON_NUMBERS = {
    reason: job_pb2.WaitReason.ValueType(number) for number, reason in decoding.WAIT_REASONS.items()
}


def new_request_id() -> str:
    """A unique request_id."""
    return os.urandom(16).hex()


def id_of(job: JobRef, name: str = "job") -> str:
    """The id of a job. Raises TypeError, which names the argument, for anything else than a job or an id."""
    if isinstance(job, str):
        return job
    found = getattr(job, "id", None)
    if not isinstance(found, str):
        raise TypeError(f"{name} must be a job or its id, not {type(job).__name__}")
    return found


def attempt_of(job: JobRef, attempt: int | None) -> int | None:
    """The attempt that a report names: the given one, or that of a ``Job`` or ``Updated``."""
    if attempt is not None or not isinstance(job, v.Job | v.Updated):
        return attempt
    return job.attempt or None


def usage_of(tokens: int | None, cost: float | None) -> job_pb2.Usage | None:
    """The usage in a report; None if there is none."""
    if tokens is None and cost is None:
        return None
    return job_pb2.Usage(
        tokens=None if tokens is None else validation.tokens(tokens),
        cost=None if cost is None else validation.cost(cost),
    )


def struct_of(document: Mapping[str, Any] | None, name: str, bytes_max: int = DOCUMENT_BYTES_MAX) -> Any:
    """A document in a request; None if there is none."""
    return None if document is None else struct_from(document, name, bytes_max)


def get(job: JobRef, *, timeout: Span | None = None) -> Call[v.Job]:
    """The job as it is now.

    Raises:
        JobNotFound: there is none.
    """
    return Call("Get", pb.GetRequest(id=id_of(job)), decoding.job_in, timeout)


def attempts(job: JobRef, *, timeout: Span | None = None) -> Call[tuple[Attempt, ...]]:
    """The ended attempts of a job, oldest first: the latest 100, or fewer if they exceed 1 MiB.

    Attempts are numbered from 1, so the number of the first one shows how many older ones are omitted.

    Raises:
        JobNotFound: there is no such job.
    """
    return Call("Get", pb.GetRequest(id=id_of(job), include_attempts=True), decode_with("attempts"), timeout)


def needs(job: JobRef, *, timeout: Span | None = None) -> Call[tuple[v.NeedStatus, ...]]:
    """What a job needs, in the order given when it was created. ``list(needed_by=job)`` has the jobs themselves.

    Raises:
        JobNotFound: there is no such job.
    """
    return Call("Get", pb.GetRequest(id=id_of(job), include_needs=True), decoding.needs_in, timeout)


def list_jobs(  # noqa: PLR0913 - the filters, all by keyword
    *,
    states: Iterable[State | str] = (),
    job_types: Iterable[str] = (),
    source_id: str = "",
    group: JobRef = "",
    needed_by: JobRef = "",
    needs: JobRef = "",
    wait_reasons: Iterable[WaitReason | str] = (),
    created_from: datetime | None = None,
    created_before: datetime | None = None,
    labels: Mapping[str, str] | None = None,
    worker: str = "",
    error_code: str = "",
    completed_from: datetime | None = None,
    completed_before: datetime | None = None,
    oldest_first: bool = False,
    page_size: int = 0,
    timeout: Span | None = None,
) -> Pages[v.Job]:
    """Iterate over the jobs that match every given filter, newest first. Pages are fetched as you iterate.

    At most one of ``group`` (its members), ``needed_by`` (what that job needs) and ``needs`` (what needs that job) may
    be given. A job must have all of the ``labels``. ``worker`` claimed its current or last attempt, and ``error_code``
    is that of its last error. With ``completed_from`` (that time or later) or ``completed_before`` the list has jobs
    that have ended, those that ended last first.

    ``timeout`` is for each page. A job that exists all the time is listed exactly once, as it was when its page was
    read.

    Raises:
        TypeError: more than one of ``group``, ``needed_by`` and ``needs`` is given.
    """
    _check_related(group, needed_by, needs)
    request = pb.ListRequest(
        states=[STATE_NUMBERS[State.parse(state)] for state in validation.names(states, "states")],
        job_types=validation.names(job_types, "job_types"),
        source_id=source_id,
        group_id=id_of(group, "group"),
        needed_by=id_of(needed_by, "needed_by"),
        needs=id_of(needs, "needs"),
        wait_reasons=[
            _WAIT_REASON_NUMBERS[WaitReason.parse(reason)] for reason in validation.names(wait_reasons, "wait_reasons")
        ],
        create_time_from=None if created_from is None else timestamp(created_from),
        create_time_to=None if created_before is None else timestamp(created_before),
        labels=validation.labels(labels),
        worker=worker,
        error_code=error_code,
        complete_time_from=None if completed_from is None else timestamp(completed_from),
        complete_time_to=None if completed_before is None else timestamp(completed_before),
        page_size=page_size,
        order=pb.LIST_ORDER_CREATE_TIME_ASC if oldest_first else pb.LIST_ORDER_CREATE_TIME_DESC,
    )
    return Pages(Call("List", request, _page, timeout, arguments=_OF_LIST))


_OF_LIST = {"group_id": "group", "create_time_from": "created_from", "create_time_to": "created_before"}


def _check_related(group: JobRef, needed_by: JobRef, needs: JobRef) -> None:
    given = [name for name, job in (("group", group), ("needed_by", needed_by), ("needs", needs)) if job != ""]
    if len(given) > 1:
        raise TypeError(f"{' and '.join(given)} each choose jobs by their relation to another: give only one")


def _page(response: pb.ListResponse) -> Page[v.Job]:
    jobs = tuple(decoding.job(decoding.own_copy(each)) for each in response.jobs)
    return Page(jobs, response.next_page_token)


def start(job: JobRef, *, worker: str = "", request_id: str = "", timeout: Span | None = None) -> Call[v.Job]:
    """Begin the first attempt of a job, or claim one that the server resumed. Of all workers that try, one succeeds.

    Keep the returned job: it names this attempt in every report.

    Raises:
        TransitionNotAllowed: another worker has it, or the job is in a state in which it cannot be started.
        JobNotFound: there is no such job.
    """
    request = pb.StartRequest(id=id_of(job), worker=worker, request_id=request_id or new_request_id())
    return Call("Start", request, decoding.job_in, timeout)


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
    """Report the progress of the running attempt; without any argument, that it is alive.

    ``metadata`` is merged into the job's, key by key, and None removes a key. ``tokens`` and ``cost`` are the totals of
    the attempt so far. The returned job has no result, and has metadata only if this call set it.

    Raises:
        AttemptSuperseded, TransitionNotAllowed: the attempt is over. Stop the work.
        JobCancelled: the attempt is over because the job was cancelled.
    """
    request = pb.UpdateProgressRequest(
        id=id_of(job),
        progress=None if percent is None else validation.percent(percent),
        message=message,
        metadata=struct_of(metadata, "metadata"),
        usage=usage_of(tokens, cost),
        attempt=attempt_of(job, attempt),
    )
    return Call("UpdateProgress", request, decoding.job_in, timeout)


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
    """Complete the running attempt, and with it the job.

    Raises:
        AttemptSuperseded, TransitionNotAllowed: the attempt is over. Discard its results.
        JobCancelled: the attempt is over because the job was cancelled.
    """
    request = pb.CompleteRequest(
        id=id_of(job),
        result_count=None if result_count is None else validation.result_count(result_count),
        result=struct_of(result, "result"),
        usage=usage_of(tokens, cost),
        attempt=attempt_of(job, attempt),
        request_id=request_id or new_request_id(),
    )
    return Call("Complete", request, decoding.job_in, timeout)


def fail(  # noqa: PLR0913 - the parts of a failure, most by keyword
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
    """Fail the running attempt. The state of the returned job says what follows: a retry (RETRYING), or nothing.

    The failure is retryable unless ``retryable`` is False. ``retry_delay`` replaces the job type's backoff.

    Raises:
        AttemptSuperseded, TransitionNotAllowed: the attempt is already over.
        JobCancelled: the attempt is over because the job was cancelled.
    """
    request = pb.FailRequest(
        id=id_of(job),
        error=pb.FailureReport(code=code, message=message, details=struct_of(details, "details", DETAILS_BYTES_MAX)),
        retryable=retryable,
        retry_delay=None if retry_delay is None else duration(retry_delay, "retry_delay"),
        usage=usage_of(tokens, cost),
        attempt=attempt_of(job, attempt),
        request_id=request_id or new_request_id(),
    )
    return Call("Fail", request, decoding.job_in, timeout)


def report_usage(
    job: JobRef,
    *,
    tokens: int | None = None,
    cost: float | None = None,
    attempt: int | None = None,
    timeout: Span | None = None,
) -> Call[v.Job]:
    """Report what an attempt has used in total, at any time: it may have ended, and the job may be final.

    ``attempt`` is that of the given ``Job``, and is required with an id. Totals only grow, so a repeat adds nothing.
    The call is not a sign of life and claims nothing. Runs make it themselves when a report with usage was refused
    because the attempt was over.

    Raises:
        InvalidField: the job has had no such attempt, or neither ``tokens`` nor ``cost`` is given.
        JobNotFound: there is no such job.
    """
    request = pb.ReportUsageRequest(
        id=id_of(job), attempt=attempt_of(job, attempt) or 0, usage=usage_of(tokens, cost) or job_pb2.Usage()
    )
    return Call("ReportUsage", request, decoding.job_in, timeout)


def retry(job: JobRef, *, immediately: bool = False, request_id: str = "", timeout: Span | None = None) -> Call[v.Job]:
    """Retry a job that stays in FAILED, or with ``immediately`` skip the rest of its wait.

    Raises:
        RetryNotAllowed: it is PERMANENTLY_FAILED.
        TransitionNotAllowed: it has not failed.
    """
    request = pb.RetryRequest(id=id_of(job), immediately=immediately, request_id=request_id or new_request_id())
    return Call("Retry", request, decoding.job_in, timeout)


def cancel(job: JobRef, reason: str = "", *, request_id: str = "", timeout: Span | None = None) -> Call[v.Job]:
    """Cancel a job. Its worker gets the error with its next report.

    Raises:
        TransitionNotAllowed: it has already ended.
    """
    request = pb.CancelRequest(id=id_of(job), reason=reason, request_id=request_id or new_request_id())
    return Call("Cancel", request, decoding.job_in, timeout)


def close_group(group: JobRef, *, timeout: Span | None = None) -> Call[v.Job]:
    """Say that a group is complete: it ends once all its members have. Its running members may still add members.

    A group that is closed already is returned as it is.

    Raises:
        NotAGroup: the job was not created as a group.
        JobNotFound: there is no such job.
    """
    return Call("CloseGroup", pb.CloseGroupRequest(id=id_of(group)), decoding.job_in, timeout)


def stats(job_types: Iterable[str] = (), *, timeout: Span | None = None) -> Call[Stats]:
    """Statistics of the jobs, by type and in total. The cost does not depend on the number of jobs."""
    return Call(
        "GetStats",
        pb.GetStatsRequest(job_types=validation.names(job_types, "job_types")),
        decode_with("stats"),
        timeout,
    )


def job_types(*, timeout: Span | None = None) -> Call[JobTypes]:
    """The policies in force."""
    return Call("ListJobTypes", pb.ListJobTypesRequest(), decode_with("job_types"), timeout)
