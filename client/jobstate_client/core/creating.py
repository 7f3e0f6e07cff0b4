"""The operations that create jobs, like those of operations.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import decoding, operations, validation
from jobstate_client.core import values as v
from jobstate_client.core.batches import Batches, split
from jobstate_client.core.calls import Call
from jobstate_client.core.documents import duration, timestamp
from jobstate_client.core.limits import BATCH_ITEMS_MAX, BATCH_NEEDS_MAX, REQUEST_BYTES_MAX
from jobstate_client.core.operations import JobRef, id_of, new_request_id, struct_of
from jobstate_client.core.states import NeedCondition, OnExcess, Priority, UniqueUntil
from jobstate_client.core.values import Span


def create(  # noqa: PLR0913 - the parts of a job, all by keyword
    job_type: str | v.NewJob,
    *,
    id: str = "",
    source_id: str = "",
    metadata: Mapping[str, Any] | None = None,
    max_retries: int | None = None,
    attempt_timeout: Span | None = None,
    request_id: str = "",
    priority: Priority | str | None = None,
    delay: Span | None = None,
    not_before_time: datetime | None = None,
    start_within: Span | None = None,
    unique_key: str = "",
    unique_until: UniqueUntil | str | None = None,
    lane: str | None = None,
    needs: Sequence[str | v.HasId | v.Need] = (),
    group_id: str | v.HasId = "",
    group: v.GroupPolicy | None = None,
    labels: Mapping[str, str] | None = None,
    by: v.Job | None = None,
    timeout: Span | None = None,
) -> Call[v.Job]:
    """Create a job of this type, or as a ``NewJob`` describes it, which explains the arguments. It is QUEUED.

    If a job of this type has the ``unique_key`` already, that one is returned, and its ``existing`` is true.

    Raises:
        JobExists: there is a job with this id.
        UnknownJobType: the server takes no jobs of this type.
        TypeError: a ``NewJob`` is given together with one of its own fields, or ``delay`` with ``not_before_time``.
    """
    fields: dict[str, Any] = {
        "id": id,
        "source_id": source_id,
        "metadata": metadata,
        "max_retries": max_retries,
        "attempt_timeout": attempt_timeout,
        "request_id": request_id,
        "priority": priority,
        "delay": delay,
        "not_before_time": not_before_time,
        "start_within": start_within,
        "unique_key": unique_key,
        "unique_until": unique_until,
        "lane": lane,
        "needs": needs,
        "group_id": group_id,
        "group": group,
        "labels": labels,
        "by": by,
    }
    if isinstance(job_type, v.NewJob):
        if lane is not None or any(value is not None and value not in ("", (), []) for value in fields.values()):
            raise TypeError("a NewJob has all the fields of a job: set them in it, or in a copy by dataclasses.replace")
        new = job_type
    else:
        new = v.NewJob(job_type, **fields)
    return Call("Create", _create_request(new), _created_job, timeout, arguments=_ARGUMENTS)


_ARGUMENTS = {"timeout": "attempt_timeout"}


def create_many(jobs: Iterable[v.NewJob], *, timeout: Span | None = None) -> Batches[v.CreatedJob]:
    """Create any number of jobs in this order, or none. Up to 1,000 are one batch: all of them are created, or none.

    More are sent in batches of up to 1,000 jobs, 8 MiB and 1,000 needs, one after the other; ``timeout`` is for each.
    If a batch fails, those before it have been created, and none after it: the error has them as ``created``. Give
    the jobs ids or request ids of your own, and the same call can be repeated.

    Raises:
        JobExists: one of the ids is taken.
        JobStateError: whatever else refuses a batch. Places that it names, as in ``requests[1200].lane``, count from
            the first job of the call.
    """
    return Batches(_batch_calls(jobs, timeout))


def _batch_calls(jobs: Iterable[v.NewJob], timeout: Span | None) -> Iterator[Call[tuple[v.CreatedJob, ...]]]:
    for requests in split(_create_requests(jobs), _weights, _BATCH_MAX):
        yield Call("BatchCreate", pb.BatchCreateRequest(requests=requests), _created_jobs, timeout)


_ITEM_BYTES = 6
"""What an item of a batch takes beside itself, at most: its tag and its length."""

_BATCH_MAX = (BATCH_ITEMS_MAX, REQUEST_BYTES_MAX, BATCH_NEEDS_MAX)


def _create_requests(jobs: Iterable[v.NewJob]) -> Iterator[pb.CreateRequest]:
    for place, new in enumerate(new_jobs(jobs)):
        try:
            request = _create_request(new)
        except Exception as problem:
            BaseException.add_note(problem, f"in job {place} of create_many, counted from 0")
            raise
        yield request


def _weights(request: pb.CreateRequest) -> tuple[int, ...]:
    return 1, request.ByteSize() + _ITEM_BYTES, len(request.needs)


def new_jobs(jobs: Iterable[v.NewJob]) -> Iterator[v.NewJob]:
    """These jobs. Raises TypeError for what is none."""
    given: Any = jobs
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        validation.names(given, "jobs")
    for index, new in enumerate(jobs):
        if not isinstance(new, v.NewJob):
            raise TypeError(f"jobs[{index}] must be a NewJob, not {type(new).__name__}")
        yield new


def recreate(job: JobRef, *, request_id: str = "", timeout: Span | None = None) -> Call[v.Job]:
    """Create a job with the terms of one that has ended, which stays as it is. The new job is QUEUED.

    It has the type, source, metadata, retries, timeout, priority, lane and ``start_within`` of the old one, whose id is
    its ``recreated_from``. If a job has the unique key of the old one, that job is returned, and its ``existing`` is
    true.

    Raises:
        TransitionNotAllowed: the job has not ended, or is a group.
        JobNotFound: there is no such job.
        UnknownJobType: the server takes no jobs of this type any more.
    """
    request = pb.RecreateRequest(id=id_of(job), request_id=request_id or new_request_id())
    return Call("Recreate", request, _created_job, timeout)


def _create_request(new: v.NewJob) -> pb.CreateRequest:
    if new.delay is not None and new.not_before_time is not None:
        raise TypeError("delay and not_before_time both set when the job may begin: give only one")
    return pb.CreateRequest(
        id=new.id,
        job_type=new.job_type,
        source_id=new.source_id,
        metadata=struct_of(new.metadata, "metadata"),
        max_retries=new.max_retries,
        timeout=_span(new.attempt_timeout, "attempt_timeout"),
        request_id=new.request_id or new_request_id(),
        priority=_priority(new.priority),
        delay=_span(new.delay, "delay"),
        not_before_time=None if new.not_before_time is None else timestamp(new.not_before_time),
        start_within=_span(new.start_within, "start_within"),
        unique_key=new.unique_key,
        unique_until=_unique_until(new.unique_until),
        lane=new.lane,
        needs=[_need(need, f"needs[{index}]") for index, need in enumerate(validation.names(new.needs, "needs"))],
        group_id=operations.id_of(new.group_id, "group_id"),
        group=None if new.group is None else _group(new.group),
        labels=validation.labels(new.labels),
        by=None if new.by is None else _by(new.by),
    )


def _need(need: str | v.HasId | v.Need, name: str) -> pb.Need:
    if not isinstance(need, v.Need):
        need = v.Need(need)
    condition = NeedCondition.parse(need.condition)
    job_id = operations.id_of(need.job, name)
    return pb.Need(job_id=job_id, condition=job_pb2.NeedCondition.Value(f"NEED_CONDITION_{condition}"))


def _group(policy: v.GroupPolicy) -> job_pb2.GroupPolicy:
    if not isinstance(policy, v.GroupPolicy):
        kind = type(policy).__name__
        raise TypeError(f"group must be a GroupPolicy, not {kind}; the group that a job joins is its group_id")
    on_excess = OnExcess.parse(policy.on_excess)
    return job_pb2.GroupPolicy(
        tolerated_failures=validation.integer(policy.tolerated_failures, "tolerated_failures"),
        on_excess=job_pb2.OnExcess.Value(f"ON_EXCESS_{on_excess}"),
    )


def _by(creator: v.Job) -> pb.AttemptRef:
    attempt = getattr(creator, "attempt", None)
    if not isinstance(attempt, int):
        kind = type(creator).__name__
        raise TypeError(f"by must be a job as acquire or start returned it, which has its attempt, not {kind}")
    return pb.AttemptRef(id=operations.id_of(creator, "by"), attempt=attempt)


def _span(span: Span | None, name: str) -> Any:
    return None if span is None else duration(span, name)


def _priority(priority: Priority | str | None) -> job_pb2.Priority.ValueType:
    if priority is None:
        return job_pb2.PRIORITY_UNSPECIFIED
    return job_pb2.Priority.Value(f"PRIORITY_{Priority.parse(priority)}")


def _unique_until(until: UniqueUntil | str | None) -> pb.UniqueUntil.ValueType:
    if until is None:
        return pb.UNIQUE_UNTIL_UNSPECIFIED
    return pb.UniqueUntil.Value(f"UNIQUE_UNTIL_{UniqueUntil.parse(until)}")


def _created_job(response: pb.CreateResponse | pb.RecreateResponse) -> v.Job:
    job = decoding.job_in(response)
    return replace(job, existing=True) if response.existing else job


def _created_jobs(response: pb.BatchCreateResponse) -> tuple[v.CreatedJob, ...]:
    return tuple(v.CreatedJob(each.id, each.version, each.existing) for each in response.jobs)
