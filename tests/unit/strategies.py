"""Whatever jobs and details of events can be, for property tests."""

from __future__ import annotations

from typing import Any

from google.protobuf.struct_pb2 import Struct
from hypothesis import strategies as st

from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.events import (
    Cancelled,
    Claimed,
    Detail,
    Failed,
    PermanentlyFailed,
    RetryDecision,
    Retrying,
    StaleDetected,
    Started,
    Used,
)
from jobstate_server.domain.job import INT64_MAX, Job, JobError, JobState

INT32_MAX = 2**31 - 1
TIME_MAX = 253_402_300_799 * SECOND + 999_999
"""The end of the year 9999, where Timestamp ends."""


def a_document(**content: Any) -> bytes:
    made = Struct()
    made.update(content)
    return made.SerializeToString(deterministic=True)


def numbers(limit: int) -> st.SearchStrategy[int]:
    """Numbers from 0, most of them where the length of a varint changes."""
    edges = [edge for bits in range(7, 64, 7) for edge in (2**bits - 1, 2**bits) if edge < limit]
    return st.integers(0, limit) | st.sampled_from([0, 1, *edges, limit])


texts = st.text(max_size=40) | st.sampled_from(["", "x" * 128, "ü" * 1_024])
moments = numbers(TIME_MAX) | st.integers(0, TIME_MAX // SECOND).map(lambda seconds: seconds * SECOND)
json_documents = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-9, 9) | texts, max_size=3).map(
    lambda content: a_document(**content)
)
job_errors = st.builds(JobError, texts, texts, st.booleans(), json_documents, numbers(INT32_MAX), moments)

jobs = st.builds(
    Job,
    **dict.fromkeys(("id", "job_type", "source_id", "worker", "progress_message", "cancel_reason"), texts),
    **{name: numbers(INT32_MAX) for name in ("progress", "attempt", "retry_count", "max_retries")},
    **{name: numbers(INT64_MAX) for name in ("version", "result_count", "estimated_tokens")},
    **dict.fromkeys(("create_time", "update_time", "duration"), moments),
    **{
        name: st.none() | moments
        for name in ("start_time", "claim_time", "complete_time", "next_retry_time", "attempt_deadline", "timeout")
    },
    state=st.sampled_from(JobState),
    claimed=st.booleans(),
    metadata=json_documents,
    result=json_documents,
    last_error=st.none() | job_errors,
    estimated_cost_nano=numbers(10**15),
)
"""Jobs with every value that the wire can have in every field."""

job_details: st.SearchStrategy[Detail | None] = st.one_of(
    st.none(),
    st.builds(Started, st.booleans(), st.none() | moments),
    st.builds(Claimed, texts, moments),
    st.builds(Failed, job_errors, st.sampled_from(RetryDecision), st.none() | moments),
    st.builds(Retrying, moments, moments),
    st.builds(PermanentlyFailed, st.sampled_from(RetryDecision)),
    st.builds(Cancelled, texts),
    st.builds(StaleDetected, moments, moments),
    st.builds(Used, numbers(INT32_MAX), numbers(INT64_MAX), numbers(10**18)),
)
