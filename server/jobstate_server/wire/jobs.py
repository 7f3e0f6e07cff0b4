"""Jobs as ``jobstate.v1.Job``, encoded."""

from __future__ import annotations

from jobstate.v1 import job_pb2
from jobstate_server.domain.job import NANO, Attempt, FinishedJob, Job, JobError
from jobstate_server.domain.job_types import JobType
from jobstate_server.domain.waiting import wait_reason
from jobstate_server.wire.documents import EMPTY_RESULT
from jobstate_server.wire.framing import TRUE, double, double_tag, embed, length_tag, text, varint, varint_tag
from jobstate_server.wire.times import encoded_span, encoded_time, set_span, set_time

_ID = length_tag(job_pb2.Job.ID_FIELD_NUMBER)
_JOB_TYPE = length_tag(job_pb2.Job.JOB_TYPE_FIELD_NUMBER)
_SOURCE_ID = length_tag(job_pb2.Job.SOURCE_ID_FIELD_NUMBER)
_STATE = varint_tag(job_pb2.Job.STATE_FIELD_NUMBER)
_PROGRESS = varint_tag(job_pb2.Job.PROGRESS_FIELD_NUMBER)
_PROGRESS_MESSAGE = length_tag(job_pb2.Job.PROGRESS_MESSAGE_FIELD_NUMBER)
_ATTEMPT = varint_tag(job_pb2.Job.ATTEMPT_FIELD_NUMBER)
_VERSION = varint_tag(job_pb2.Job.VERSION_FIELD_NUMBER)
_WORKER = length_tag(job_pb2.Job.WORKER_FIELD_NUMBER)
_RETRY_COUNT = varint_tag(job_pb2.Job.RETRY_COUNT_FIELD_NUMBER)
_MAX_RETRIES = varint_tag(job_pb2.Job.MAX_RETRIES_FIELD_NUMBER)
_CREATE_TIME = length_tag(job_pb2.Job.CREATE_TIME_FIELD_NUMBER)
_UPDATE_TIME = length_tag(job_pb2.Job.UPDATE_TIME_FIELD_NUMBER)
_START_TIME = length_tag(job_pb2.Job.START_TIME_FIELD_NUMBER)
_COMPLETE_TIME = length_tag(job_pb2.Job.COMPLETE_TIME_FIELD_NUMBER)
_NEXT_RETRY_TIME = length_tag(job_pb2.Job.NEXT_RETRY_TIME_FIELD_NUMBER)
_ATTEMPT_DEADLINE = length_tag(job_pb2.Job.ATTEMPT_DEADLINE_FIELD_NUMBER)
_TIMEOUT = length_tag(job_pb2.Job.TIMEOUT_FIELD_NUMBER)
_READY_TIME = length_tag(job_pb2.Job.READY_TIME_FIELD_NUMBER)
_START_WITHIN = length_tag(job_pb2.Job.START_WITHIN_FIELD_NUMBER)
_PRIORITY = varint_tag(job_pb2.Job.PRIORITY_FIELD_NUMBER)
_UNIQUE_KEY = length_tag(job_pb2.Job.UNIQUE_KEY_FIELD_NUMBER)
_LANE = length_tag(job_pb2.Job.LANE_FIELD_NUMBER)
_WAIT_REASON = varint_tag(job_pb2.Job.WAIT_REASON_FIELD_NUMBER)
_CANCEL_CAUSE = varint_tag(job_pb2.Job.CANCEL_CAUSE_FIELD_NUMBER)
_LEASE = length_tag(job_pb2.Job.LEASE_FIELD_NUMBER)
_DURATION = length_tag(job_pb2.Job.DURATION_FIELD_NUMBER)
_LAST_ERROR = length_tag(job_pb2.Job.LAST_ERROR_FIELD_NUMBER)
_ESTIMATED_TOKENS = varint_tag(job_pb2.Job.ESTIMATED_TOKENS_FIELD_NUMBER)
_ESTIMATED_COST = double_tag(job_pb2.Job.ESTIMATED_COST_FIELD_NUMBER)
_RESULT_COUNT = varint_tag(job_pb2.Job.RESULT_COUNT_FIELD_NUMBER)
_CANCEL_REASON = length_tag(job_pb2.Job.CANCEL_REASON_FIELD_NUMBER)
_METADATA = length_tag(job_pb2.Job.METADATA_FIELD_NUMBER)
_RESULT = length_tag(job_pb2.Job.RESULT_FIELD_NUMBER)
_IS_CLAIMED = varint_tag(job_pb2.Job.CLAIMED_FIELD_NUMBER) + TRUE
_CLAIM_TIME = length_tag(job_pb2.Job.CLAIM_TIME_FIELD_NUMBER)

_ERROR_CODE = length_tag(job_pb2.JobError.CODE_FIELD_NUMBER)
_ERROR_MESSAGE = length_tag(job_pb2.JobError.MESSAGE_FIELD_NUMBER)
_IS_RETRYABLE = varint_tag(job_pb2.JobError.RETRYABLE_FIELD_NUMBER) + TRUE
_ERROR_DETAILS = length_tag(job_pb2.JobError.DETAILS_FIELD_NUMBER)
_ERROR_ATTEMPT = varint_tag(job_pb2.JobError.ATTEMPT_FIELD_NUMBER)
_ERROR_TIME = length_tag(job_pb2.JobError.TIME_FIELD_NUMBER)


def encode_error(error: JobError) -> bytes:
    """A JobError."""
    parts = [text(_ERROR_CODE, error.code), text(_ERROR_MESSAGE, error.message)]
    if error.retryable:
        parts.append(_IS_RETRYABLE)
    if error.details:
        parts.append(embed(_ERROR_DETAILS, error.details))
    if error.attempt:
        parts.append(_ERROR_ATTEMPT + varint(error.attempt))
    parts.append(_ERROR_TIME + encoded_time(error.time))
    return b"".join(parts)


def encode_job(job: Job, *, metadata: bool = True, result: bool = True) -> bytes:
    """The job without its version, which is known only after its last event is numbered."""
    parts = [job.unreported_encoding or _encode_unreported(job), _UPDATE_TIME, encoded_time(job.update_time)]
    if job.progress:
        parts += (_PROGRESS, varint(job.progress))
    if job.progress_message:
        message = job.progress_message.encode()
        parts += (_PROGRESS_MESSAGE, varint(len(message)), message)
    if job.estimated_tokens:
        parts.append(_ESTIMATED_TOKENS + varint(job.estimated_tokens))
    if job.estimated_cost_nano:
        parts.append(_ESTIMATED_COST + double(job.estimated_cost_nano / NANO))
    if metadata and job.metadata:
        parts.append(embed(_METADATA, job.metadata))
    if result and job.result:
        parts.append(embed(_RESULT, job.result if job.result != EMPTY_RESULT else b""))
    return b"".join(parts)


def _encode_unreported(job: Job) -> bytes:
    """All fields that no report changes, without the documents. Cached in the job for the events of later reports."""
    parts = [job.terms_encoding or _encode_terms(job), _STATE, varint(job.state)]
    if job.attempt:
        parts.append(_ATTEMPT + varint(job.attempt))
    if job.claimed:
        parts.append(_IS_CLAIMED)
    if job.worker:
        parts.append(text(_WORKER, job.worker))
    if job.retry_count:
        parts.append(_RETRY_COUNT + varint(job.retry_count))
    if job.result_count:
        parts.append(_RESULT_COUNT + varint(job.result_count))
    if job.cancel_reason:
        parts.append(text(_CANCEL_REASON, job.cancel_reason))
    if job.last_error is not None:
        parts.append(embed(_LAST_ERROR, encode_error(job.last_error)))
    if job.start_time is not None:
        parts.append(_START_TIME + encoded_time(job.start_time))
    if job.claim_time is not None:
        parts.append(_CLAIM_TIME + encoded_time(job.claim_time))
    if job.complete_time is not None:
        parts.append(_COMPLETE_TIME + encoded_time(job.complete_time))
    if job.next_retry_time is not None:
        parts.append(_NEXT_RETRY_TIME + encoded_time(job.next_retry_time))
    if job.attempt_deadline is not None:
        parts.append(_ATTEMPT_DEADLINE + encoded_time(job.attempt_deadline))
    parts += (_DURATION, encoded_span(job.duration), _encode_place(job))
    encoded = b"".join(parts)
    job.cache("unreported_encoding", encoded)
    return encoded


def _encode_place(job: Job) -> bytes:
    """The fields about the hand-out of the job."""
    place = _READY_TIME + encoded_time(job.ready_time)
    waits_for = wait_reason(job)
    if waits_for is not None:
        place += _WAIT_REASON + varint(waits_for)
    if job.lease is not None:
        place += _LEASE + encoded_span(job.lease)
    if job.cancel_cause:
        place += _CANCEL_CAUSE + varint(job.cancel_cause)
    return place


def _encode_terms(job: Job) -> bytes:
    """The fields that never change. Cached in the job for all its events."""
    parts = [_encode_names(job), _CREATE_TIME, encoded_time(job.create_time)]
    if job.max_retries:
        parts.append(_MAX_RETRIES + varint(job.max_retries))
    if job.timeout is not None:
        parts.append(_TIMEOUT + encoded_span(job.timeout))
    if job.start_within is not None:
        parts.append(_START_WITHIN + encoded_span(job.start_within))
    if job.unique_key is not None:
        parts.append(text(_UNIQUE_KEY, job.unique_key))
    if job.lane:
        parts.append(text(_LANE, job.lane))
    parts.append(_PRIORITY + varint(job.level))
    encoded = b"".join(parts)
    job.cache("terms_encoding", encoded)
    return encoded


def _encode_names(job: Job | FinishedJob) -> bytes:
    return text(_ID, job.id) + text(_JOB_TYPE, job.job_type) + text(_SOURCE_ID, job.source_id)


def encode_remains(job: FinishedJob) -> bytes:
    """The fields of a deleted job that its ``.deleted`` event has."""
    return _encode_names(job) + _STATE + varint(job.state)


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
        message.error.MergeFromString(encode_error(attempt.error))
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
    set_span(message.lease, job_type.lease)
    set_span(message.priority_step, job_type.priority_step)
    return message
