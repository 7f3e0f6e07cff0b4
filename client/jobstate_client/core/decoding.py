"""Messages of the contract as values: one function for each kind."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message

from jobstate.v1 import event_pb2, job_pb2
from jobstate_client.core import values as v
from jobstate_client.core.documents import dict_from, span_from, time_from
from jobstate_client.core.states import AttemptOutcome, EventType, HealthState, RetryDecision, State

E = TypeVar("E", State, EventType, RetryDecision, AttemptOutcome, HealthState)


class EnumDecoder(dict[int, E]):
    """The members of a kind by the numbers of the contract's enum. Any other number is a value of its own."""

    def __init__(self, kind: type[E], wrapper: Any, prefix: str) -> None:
        names = {number: name.removeprefix(prefix) for name, number in wrapper.items()}
        super().__init__({number: kind[name] for number, name in names.items() if name in kind.__members__})
        self._kind: type[E] = kind
        self._names = names

    def __missing__(self, number: int) -> E:
        # Not kept: a server could send any number of them.
        name = self._names.get(number, f"UNKNOWN_{number}")
        value: E = self._kind.unknown(name) if number else self._kind["UNKNOWN"]
        return value


STATES = EnumDecoder(State, job_pb2.JobState, "JOB_STATE_")
EVENT_TYPES = EnumDecoder(EventType, event_pb2.EventType, "EVENT_TYPE_")
_DECISIONS = EnumDecoder(RetryDecision, event_pb2.RetryDecision, "RETRY_DECISION_")


def time_in(message: Message, field: str) -> datetime | None:
    """The time in a field, None when it is not set."""
    return time_from(getattr(message, field)) if message.HasField(field) else None


def span_in(message: Message, field: str) -> timedelta | None:
    """The span in a field, None when it is not set."""
    return span_from(getattr(message, field)) if message.HasField(field) else None


def job(message: job_pb2.Job) -> v.Job:
    """A job."""
    return v.Job(
        id=message.id,
        job_type=message.job_type,
        source_id=message.source_id,
        state=STATES[message.state],
        progress=message.progress,
        progress_message=message.progress_message,
        attempt=message.attempt,
        version=message.version,
        worker=message.worker,
        claimed=message.claimed,
        retry_count=message.retry_count,
        max_retries=message.max_retries,
        create_time=time_in(message, "create_time"),
        update_time=time_in(message, "update_time"),
        start_time=time_in(message, "start_time"),
        claim_time=time_in(message, "claim_time"),
        complete_time=time_in(message, "complete_time"),
        next_retry_time=time_in(message, "next_retry_time"),
        attempt_deadline=time_in(message, "attempt_deadline"),
        timeout=span_in(message, "timeout"),
        duration=span_from(message.duration),
        last_error=job_error(message.last_error) if message.HasField("last_error") else None,
        estimated_tokens=message.estimated_tokens,
        estimated_cost=message.estimated_cost,
        result_count=message.result_count,
        cancel_reason=message.cancel_reason,
        metadata=dict_from(message.metadata),
        result=dict_from(message.result) if message.HasField("result") else None,
    )


def job_error(message: job_pb2.JobError) -> v.JobError:
    """A failure."""
    return v.JobError(
        code=message.code,
        message=message.message,
        retryable=message.retryable,
        details=dict_from(message.details) if message.HasField("details") else None,
        attempt=message.attempt,
        time=time_from(message.time),
    )


def event(message: event_pb2.Event) -> v.Event:
    """An event."""
    previous = message.previous_state
    return v.Event(
        sequence=message.sequence,
        type=EVENT_TYPES[message.type],
        name=message.name,
        time=time_from(message.time),
        actor=message.actor,
        previous_state=STATES[previous] if previous else None,
        job=job(message.job),
        detail=_detail(message),
        sets_metadata=message.job.HasField("metadata"),
        sets_result=message.job.HasField("result"),
    )


_NO_DETAIL = v.Detail()


def _detail(message: event_pb2.Event) -> v.Detail:
    match message.WhichOneof("detail"):
        case "started":
            detail = v.Detail(resumed=message.started.resumed, waited=span_in(message.started, "waited"))
        case "claimed":
            detail = v.Detail(worker=message.claimed.worker, waited=span_in(message.claimed, "waited"))
        case "failed":
            failed = message.failed
            detail = v.Detail(
                error=job_error(failed.error),
                decision=_DECISIONS[failed.decision],
                next_retry_time=time_in(failed, "next_retry_time"),
            )
        case "retrying":
            retrying = message.retrying
            detail = v.Detail(delay=span_from(retrying.delay), next_retry_time=time_in(retrying, "next_retry_time"))
        case "permanently_failed":
            decision = message.permanently_failed.decision
            detail = v.Detail(decision=_DECISIONS[decision])
        case "cancelled":
            detail = v.Detail(reason=message.cancelled.reason)
        case "stale_detected":
            stale = message.stale_detected
            detail = v.Detail(heard_time=time_from(stale.heard_time), stale_threshold=span_from(stale.stale_threshold))
        case "usage":
            told = message.usage
            detail = v.Detail(attempt=told.attempt, tokens=told.usage.tokens, cost=told.usage.cost)
        case _:
            detail = _NO_DETAIL
    return detail
