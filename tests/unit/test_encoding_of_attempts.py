"""Attempts and job types on the wire: whatever is encoded parses back to the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobstate.v1 import job_pb2
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.job import (
    INT64_MAX,
    NANO,
    Attempt,
    AttemptOutcome,
)
from jobstate_server.domain.job_types import JobType
from jobstate_server.wire import times
from jobstate_server.wire.jobs import (
    attempt_message,
    job_type_message,
)

from .test_encoding import ERROR, error_from, optional_time


@pytest.mark.parametrize("claim_time", [None, 0, 3 * SECOND // 2])
@pytest.mark.parametrize("outcome", AttemptOutcome)
def test_an_attempt_comes_back_in_every_field(outcome: AttemptOutcome, claim_time: int | None) -> None:
    attempt = Attempt(
        job_id="job",
        number=3,
        start_time=SECOND,
        claim_time=claim_time,
        end_time=2 * SECOND,
        outcome=outcome,
        worker="worker-5",
        tokens=INT64_MAX,
        cost_nano=1_500_000_000,
        error=ERROR if outcome is AttemptOutcome.FAILED else None,
    )

    message = job_pb2.Attempt.FromString(attempt_message(attempt).SerializeToString())

    assert attempt == Attempt(
        job_id="job",
        number=message.number,
        start_time=times.time_from(message.start_time),
        claim_time=optional_time(message, "claim_time"),
        end_time=times.time_from(message.end_time),
        outcome=AttemptOutcome(message.outcome),
        worker=message.worker,
        tokens=message.usage.tokens,
        cost_nano=round(message.usage.cost * NANO),
        error=error_from(message.error) if message.HasField("error") else None,
    )


@pytest.mark.parametrize("timeout", [None, 90 * SECOND])
def test_a_policy_comes_back_in_every_field(timeout: int | None) -> None:
    policy = JobType(
        name="render",
        max_retries=4,
        timeout=timeout,
        base_delay=1_500_000,
        max_delay=45 * SECOND,
        stale_threshold=450 * SECOND,
        jitter=0.25,
        auto_retry=False,
    )
    for expected in (policy, replace(policy, auto_retry=True, jitter=0.0, max_retries=0, base_delay=0)):
        message = job_pb2.JobType.FromString(job_type_message(expected).SerializeToString())

        assert expected == JobType(
            name=message.name,
            max_retries=message.max_retries,
            timeout=times.span_from(message.timeout) if message.HasField("timeout") else None,
            base_delay=times.span_from(message.base_delay),
            max_delay=times.span_from(message.max_delay),
            stale_threshold=times.span_from(message.stale_threshold),
            jitter=message.jitter,
            auto_retry=message.auto_retry,
        )
