"""Jobs as ``jobstate.v1.Job``, encoded."""

from __future__ import annotations

from functools import lru_cache

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import NANO, Attempt, Job, JobError, JobState
from jobstate_server.domain.job_types import JobType
from jobstate_server.domain.labels import Label, from_text
from jobstate_server.domain.needs import Need, is_met
from jobstate_server.domain.waiting import CancelCause, wait_reason
from jobstate_server.wire.documents import EMPTY_RESULT
from jobstate_server.wire.framing import TRUE, double, double_tag, embed, length_tag, prefixes, text, varint, varint_tag
from jobstate_server.wire.times import encoded_span, encoded_time, exact_time, set_span, set_time

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
_GROUP_ID = length_tag(job_pb2.Job.GROUP_ID_FIELD_NUMBER)
_GROUP = length_tag(job_pb2.Job.GROUP_FIELD_NUMBER)
_RECREATED_FROM = length_tag(job_pb2.Job.RECREATED_FROM_FIELD_NUMBER)
MEMBERS = length_tag(job_pb2.Job.MEMBERS_FIELD_NUMBER)
"""What comes before the counts of a group."""
_CANCEL_CAUSE_ID = length_tag(job_pb2.Job.CANCEL_CAUSE_ID_FIELD_NUMBER)
LABELS = length_tag(job_pb2.Job.LABELS_FIELD_NUMBER)
"""What comes before each label of a job."""
_LABEL_KEY = length_tag(1)
_LABEL_VALUE = length_tag(2)

_LOOKED_UP = 257
"""Tags and lengths of ids and sources up to this length are looked up instead of encoded. None is longer now."""

_ID_PREFIXES = prefixes(_ID, _LOOKED_UP)
_SOURCE_PREFIXES = prefixes(_SOURCE_ID, _LOOKED_UP)

_TYPES_CACHED = 1_024
"""Encoded job types: there are few."""

_POLICIES_CACHED = 1_024
"""Combinations of retries, timeout and priority: most jobs have those of their type."""

_LABELS_CACHED = 1_024
"""Encoded labels: many jobs have the same."""

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
    return with_names(encode_in_event(job, job.update_time, metadata=metadata, result=result), job)


def encode_in_event(job: Job, time: int, *, is_new: bool = False, metadata: bool, result: bool) -> bytes:
    """The job as the log stores it in an event: without its version, and without what ``known_from_event`` has.

    Args:
        time: that of the event.
        is_new: whether it is the event that reports the creation of the job.
    """
    parts = [_encode_new(job, time) if is_new else job.unreported_encoding or _encode_unreported(job)]
    if job.update_time != time:
        parts += (_UPDATE_TIME, exact_time(job.update_time))
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


def known_from_event(job_id: str, job_type: str, source_id: str, time: int | None, *, is_new: bool = False) -> bytes:
    """The fields of a job that the columns of its event have. They come before the encoded job, whose own fields
    override them.

    Args:
        time: that of the event, at which the job was updated. None for the event of a deleted job.
        is_new: whether it is the event that reports the creation of the job.
    """
    name, source = job_id.encode(), source_id.encode()
    parts = [
        _ID_PREFIXES[length] if (length := len(name)) < _LOOKED_UP else _ID + varint(length),
        name,
        _encoded_type(job_type),
        _SOURCE_PREFIXES[length] if (length := len(source)) < _LOOKED_UP else _SOURCE_ID + varint(length),
        source,
    ]
    if time is not None:
        encoded = encoded_time(time)
        parts += (_UPDATE_TIME, encoded)
        if is_new:
            parts += (_CREATE_TIME, encoded, _READY_TIME, encoded)
    return b"".join(parts)


@lru_cache(_TYPES_CACHED)
def _encoded_type(job_type: str) -> bytes:
    return text(_JOB_TYPE, job_type)


def with_names(encoded: bytes, job: Job, *, is_new: bool = False) -> bytes:
    """The job without its version, from how its last event has it."""
    return known_from_event(job.id, job.job_type, job.source_id, job.update_time, is_new=is_new) + encoded


def _encode_unreported(job: Job) -> bytes:
    """All fields that no report changes, without the names and the documents. Cached in the job for the events of later
    reports."""
    times = _CREATE_TIME + encoded_time(job.create_time) + _READY_TIME + encoded_time(job.ready_time)
    encoded = times + _encode_life(job)
    job.cache("unreported_encoding", encoded)
    return encoded


def _encode_new(job: Job, time: int) -> bytes:
    """Like ``_encode_unreported``, for a job that was created at this time and is ready since then."""
    encoded = _encode_life(job)
    if job.create_time != time:
        encoded += _CREATE_TIME + exact_time(job.create_time)
    if job.ready_time != time:
        encoded += _READY_TIME + exact_time(job.ready_time)
    return encoded


def _encode_life(job: Job) -> bytes:
    """Where the job is in its life."""
    standing = _encode_standing(job) if job.open_needs else _STANDINGS[job.state, job.claimed, job.held]
    parts = [job.terms_encoding or _encode_terms(job), standing]
    if job.attempt:
        parts.append(_ATTEMPT + varint(job.attempt))
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
    if job.lease is not None:
        parts.append(_LEASE + encoded_span(job.lease))
    cause = _CANCEL_CAUSES[job.cancel_cause]
    cause = cause if job.cancel_cause_id is None else cause + text(_CANCEL_CAUSE_ID, job.cancel_cause_id)
    parts += (cause, _DURATION, encoded_span(job.duration))
    return b"".join(parts)


_CANCEL_CAUSES = {0: b""} | {int(cause): _CANCEL_CAUSE + varint(cause) for cause in CancelCause}


def _encode_standing(job: Job) -> bytes:
    """The state, whether the attempt is claimed, and what the job waits for."""
    encoded = _STATE + varint(job.state) + (_IS_CLAIMED if job.claimed else b"")
    waits_for = wait_reason(job)
    return encoded if waits_for is None else encoded + _WAIT_REASON + varint(waits_for)


_STANDINGS = {
    (state, claimed, held): _encode_standing(Job(id="", job_type="", state=state, claimed=claimed, held=held))
    for state in JobState
    for claimed in (False, True)
    for held in (False, True)
}
"""All that there can be without open needs, by the fields that they follow from."""


def _encode_terms(job: Job) -> bytes:
    """What its creator asked for. Cached in the job for all its events."""
    encoded = _encode_policy(job.max_retries, job.timeout, job.level)
    if job.start_within is not None:
        encoded += _START_WITHIN + encoded_span(job.start_within)
    if job.unique_key is not None:
        encoded += text(_UNIQUE_KEY, job.unique_key)
    if job.lane:
        encoded += text(_LANE, job.lane)
    if job.group_id is not None:
        encoded += text(_GROUP_ID, job.group_id)
    if job.on_excess or job.tolerated_failures:
        encoded += _encode_group(job.tolerated_failures, job.on_excess)
    if job.recreated_from is not None:
        encoded += text(_RECREATED_FROM, job.recreated_from)
    if job.labels is not None:
        encoded += encode_labels(job.labels)
    job.cache("terms_encoding", encoded)
    return encoded


@lru_cache(_POLICIES_CACHED)
def _encode_policy(max_retries: int, timeout: int | None, level: int) -> bytes:
    """What many jobs have in common."""
    encoded = _MAX_RETRIES + varint(max_retries) if max_retries else b""
    if timeout is not None:
        encoded += _TIMEOUT + encoded_span(timeout)
    return encoded + _PRIORITY + varint(level)


def encode_labels(labels: str) -> bytes:
    """The labels of a job."""
    return b"".join(map(encode_label, from_text(labels)))


@lru_cache(_LABELS_CACHED)
def encode_label(label: Label) -> bytes:
    """One of them. Every encoded job and event that has the label has exactly these bytes."""
    key, value = label[0].encode(), label[1].encode()
    # A map is encoded as messages with two fields, which are there also when they are empty.
    entry = b"".join((_LABEL_KEY, varint(len(key)), key, _LABEL_VALUE, varint(len(value)), value))
    return embed(LABELS, entry)


@lru_cache(_POLICIES_CACHED)
def _encode_group(tolerated_failures: int, on_excess: int) -> bytes:
    """How a group ends."""
    policy = job_pb2.GroupPolicy(tolerated_failures=tolerated_failures, on_excess=job_pb2.OnExcess.ValueType(on_excess))
    return embed(_GROUP, policy.SerializeToString())


def encode_members(group: Group) -> bytes:
    """The counts of a group, which follow its encoded job."""
    counts = group.counts
    members = job_pb2.GroupMembers(
        total=counts.total,
        completed=counts.completed,
        permanently_failed=counts.permanently_failed,
        cancelled=counts.cancelled,
        tokens=counts.tokens,
        cost=counts.cost_nano / NANO,
        closed=group.closed,
        stopping=group.stopping,
    )
    return embed(MEMBERS, members.SerializeToString())


def encode_remains(state: int, labels: str | None = None) -> bytes:
    """The fields of a deleted job that its ``.deleted`` event has, besides those that ``known_from_event`` has."""
    encoded = _STATE + varint(state)
    return encoded if labels is None else encoded + encode_labels(labels)


def with_version(encoded: bytes, version: int) -> bytes:
    """The encoded job with its version."""
    return b"%b%b%b" % (encoded, _VERSION, varint(version))


def encode_whole(job: Job, group: Group | None = None) -> bytes:
    """The job with all its fields. ``group`` has the counts of one that is a group."""
    encoded = encode_job(job) if group is None else encode_job(job) + encode_members(group)
    return with_version(encoded, job.version)


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


def need_message(need: Need, outcome: JobState | None) -> pb.NeedAnswer:
    """A need and what has become of it."""
    wanted = pb.Need(job_id=need.job_id, condition=job_pb2.NeedCondition.ValueType(need.condition))
    if outcome is None:
        return pb.NeedAnswer(need=wanted)
    state = job_pb2.JobState.ValueType(outcome)
    return pb.NeedAnswer(need=wanted, met=bool(is_met(need.condition, outcome)), state=state)


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
    _add_limits(message, job_type)
    return message


def _add_limits(message: job_pb2.JobType, job_type: JobType) -> None:
    """The limits, rates and lanes of a policy."""
    message.concurrency = job_type.concurrency
    message.lane_concurrency = job_type.lane_concurrency
    message.lane_from = job_pb2.LaneFrom.ValueType(job_type.lane_from)
    message.lane_holds = job_pb2.LaneHolds.ValueType(job_type.lane_holds)
    for target, rate in (("rate", job_type.hand_out_rate), ("lane_rate", job_type.lane_hand_out_rate)):
        if rate is not None:
            told = getattr(message, target)
            told.count, told.burst = rate.count, rate.burst
            set_span(told.period, rate.period)
