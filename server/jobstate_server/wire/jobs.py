"""Jobs as ``jobstate.v1.Job``, encoded."""

from __future__ import annotations

from jobstate.v1 import job_pb2
from jobstate_server.domain.job import NANO, Attempt, Job, JobError
from jobstate_server.domain.job_types import JobType
from jobstate_server.wire.documents import EMPTY_RESULT
from jobstate_server.wire.framing import embed, length_tag, varint, varint_tag
from jobstate_server.wire.times import set_span, set_time, span_field, time_field

_VERSION = varint_tag(job_pb2.Job.VERSION_FIELD_NUMBER)
_METADATA = length_tag(job_pb2.Job.METADATA_FIELD_NUMBER)
_RESULT = length_tag(job_pb2.Job.RESULT_FIELD_NUMBER)
_CREATE_TIME = length_tag(job_pb2.Job.CREATE_TIME_FIELD_NUMBER)
_UPDATE_TIME = length_tag(job_pb2.Job.UPDATE_TIME_FIELD_NUMBER)
_START_TIME = length_tag(job_pb2.Job.START_TIME_FIELD_NUMBER)
_CLAIM_TIME = length_tag(job_pb2.Job.CLAIM_TIME_FIELD_NUMBER)
_COMPLETE_TIME = length_tag(job_pb2.Job.COMPLETE_TIME_FIELD_NUMBER)
_NEXT_RETRY_TIME = length_tag(job_pb2.Job.NEXT_RETRY_TIME_FIELD_NUMBER)
_ATTEMPT_DEADLINE = length_tag(job_pb2.Job.ATTEMPT_DEADLINE_FIELD_NUMBER)
_TIMEOUT = length_tag(job_pb2.Job.TIMEOUT_FIELD_NUMBER)
_DURATION = length_tag(job_pb2.Job.DURATION_FIELD_NUMBER)


def fill_error(target: job_pb2.JobError, error: JobError) -> None:
    """Fill a JobError in place."""
    target.code = error.code
    target.message = error.message
    target.retryable = error.retryable
    target.attempt = error.attempt
    set_time(target.time, error.time)
    if error.details:
        target.details.MergeFromString(error.details)


def encode_job(job: Job, *, metadata: bool = True, result: bool = True) -> bytes:
    """The job without its version, which is known only after its last event is numbered."""
    report = job_pb2.Job(
        progress=job.progress, progress_message=job.progress_message, estimated_tokens=job.estimated_tokens
    )
    if job.estimated_cost_nano:
        report.estimated_cost = job.estimated_cost_nano / NANO
    parts = [
        job.cached_encoding or _encode_unreported(job),
        report.SerializeToString(),
        time_field(_UPDATE_TIME, job.update_time),
    ]
    if metadata and job.metadata:
        parts.append(embed(_METADATA, job.metadata))
    if result and job.result:
        parts.append(embed(_RESULT, job.result if job.result != EMPTY_RESULT else b""))
    return b"".join(parts)


def _encode_unreported(job: Job) -> bytes:
    """All fields that no report changes, without the documents. Cached in the job for the events of later reports."""
    message = job_pb2.Job(
        id=job.id,
        job_type=job.job_type,
        source_id=job.source_id,
        state=job_pb2.JobState.ValueType(job.state),
        attempt=job.attempt,
        worker=job.worker,
        retry_count=job.retry_count,
        max_retries=job.max_retries,
        result_count=job.result_count,
        cancel_reason=job.cancel_reason,
        claimed=job.claimed,
    )
    if job.last_error is not None:
        fill_error(message.last_error, job.last_error)
    parts = [
        message.SerializeToString(),
        time_field(_CREATE_TIME, job.create_time),
        span_field(_DURATION, job.duration),
    ]
    if job.timeout is not None:
        parts.append(span_field(_TIMEOUT, job.timeout))
    if job.start_time is not None:
        parts.append(time_field(_START_TIME, job.start_time))
    if job.claim_time is not None:
        parts.append(time_field(_CLAIM_TIME, job.claim_time))
    if job.complete_time is not None:
        parts.append(time_field(_COMPLETE_TIME, job.complete_time))
    if job.next_retry_time is not None:
        parts.append(time_field(_NEXT_RETRY_TIME, job.next_retry_time))
    if job.attempt_deadline is not None:
        parts.append(time_field(_ATTEMPT_DEADLINE, job.attempt_deadline))
    return job.cache_encoding(b"".join(parts))


def encode_remains(job: Job) -> bytes:
    """The fields of a deleted job that its ``.deleted`` event has."""
    state = job_pb2.JobState.ValueType(job.state)
    return job_pb2.Job(id=job.id, job_type=job.job_type, source_id=job.source_id, state=state).SerializeToString()


def with_version(encoded: bytes, version: int) -> bytes:
    """The encoded job with its version."""
    return b"%b%b%b" % (encoded, _VERSION, varint(version))


def encode_whole(job: Job) -> bytes:
    """The job with all its fields."""
    return with_version(encode_job(job), job.version)


def attempt_message(attempt: Attempt) -> job_pb2.Attempt:
    """An ended attempt."""
    outcome = job_pb2.AttemptOutcome.ValueType(attempt.outcome)
    message = job_pb2.Attempt(number=attempt.number, outcome=outcome, worker=attempt.worker)
    set_time(message.start_time, attempt.start_time)
    if attempt.claim_time is not None:
        set_time(message.claim_time, attempt.claim_time)
    set_time(message.end_time, attempt.end_time)
    message.usage.tokens = attempt.tokens
    message.usage.cost = attempt.cost_nano / NANO
    if attempt.error is not None:
        fill_error(message.error, attempt.error)
    return message


def job_type_message(job_type: JobType) -> job_pb2.JobType:
    """A policy."""
    message = job_pb2.JobType(
        name=job_type.name,
        max_retries=job_type.max_retries,
        jitter=job_type.jitter,
        auto_retry=job_type.auto_retry,
    )
    if job_type.timeout is not None:
        set_span(message.timeout, job_type.timeout)
    set_span(message.base_delay, job_type.base_delay)
    set_span(message.max_delay, job_type.max_delay)
    set_span(message.stale_threshold, job_type.stale_threshold)
    return message
