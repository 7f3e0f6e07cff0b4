"""An exception in a run fails the attempt with its code, and the event says whether the job is retried, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jobstate_client import (
    AsyncClient,
    Client,
    EventType,
    JobFailure,
    NewJob,
    NonRetryable,
    RetryDecision,
    State,
)

from .processes import server_process
from .support import Either


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store: Path = tmp_path_factory.mktemp("failing") / "jobs.db"
    with server_process(store) as (_, address):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
async def async_client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address) as client:
        yield client


class Case(NamedTuple):
    """An exception, the job that it meets, and what comes of both."""

    error: BaseException
    code: str
    decision: RetryDecision
    state: State
    job_type: str = "default"
    max_retries: int | None = None
    delay: float | None = None


CASES = {
    "any exception is retried after the type's delay": Case(
        ValueError("bad input"), "ValueError", RetryDecision.WILL_RETRY, State.RETRYING, delay=1.0
    ),
    "its own delay prevails": Case(
        JobFailure("slow down", code="RATE_LIMITED", retry_delay=7.0),
        "RATE_LIMITED",
        RetryDecision.WILL_RETRY,
        State.RETRYING,
        delay=7.0,
    ),
    "one that says so is not retried": Case(
        NonRetryable("no such file", code="NO_FILE"),
        "NO_FILE",
        RetryDecision.NOT_RETRYABLE,
        State.PERMANENTLY_FAILED,
    ),
    "the predicate says no": Case(
        LookupError("gone"), "LookupError", RetryDecision.NOT_RETRYABLE, State.PERMANENTLY_FAILED
    ),
    "the retries are used up": Case(
        OSError("disk"), "OSError", RetryDecision.LIMIT_REACHED, State.PERMANENTLY_FAILED, max_retries=0
    ),
    "a type without auto_retry rests": Case(
        OSError("disk"), "OSError", RetryDecision.AWAITING_RETRY_CALL, State.FAILED, job_type="resting"
    ),
    "an interrupt is retried": Case(
        KeyboardInterrupt(), "KeyboardInterrupt", RetryDecision.WILL_RETRY, State.RETRYING, delay=1.0
    ),
}

FOLLOWS = {
    State.RETRYING: [EventType.FAILED, EventType.RETRYING],
    State.PERMANENTLY_FAILED: [EventType.FAILED, EventType.PERMANENTLY_FAILED],
    State.FAILED: [EventType.FAILED],
}
"""The events of the failure's commit, by where they leave the job."""


def is_retryable(error: BaseException) -> bool:
    return not isinstance(error, LookupError)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_an_exception_fails_the_attempt_and_the_event_has_the_decision(
    either: Any, client: Client, case: Case
) -> None:
    new = NewJob(case.job_type, max_retries=case.max_retries)
    run: Any = None

    async def work() -> None:
        nonlocal run
        async with Either(either.run(new, is_retryable=is_retryable)) as run:
            run.progress(30, "at it")
            run.usage(tokens=7)
            raise case.error

    with pytest.raises(type(case.error)) as raised:
        await work()

    events = list(client.watch(job_ids=[run.id], start="earliest", follow=False))
    types = [event.type for event in events]
    told = events[types.index(EventType.FAILED) :][: len(FOLLOWS[case.state])]
    failed, last = told[0], told[-1]
    assert raised.value is case.error
    assert [event.type for event in told] == FOLLOWS[case.state]
    assert (failed.detail.decision, last.job.state) == (case.decision, case.state)
    assert failed.detail.error is not None
    assert failed.detail.error == failed.job.last_error
    assert (failed.detail.error.code, failed.detail.error.message) == (case.code, str(case.error))
    assert failed.detail.error.retryable is (case.decision is not RetryDecision.NOT_RETRYABLE)
    assert (failed.job.progress, failed.job.estimated_tokens) == (30, 7)
    delay = None if case.delay is None else timedelta(seconds=case.delay)
    assert last.detail.delay == delay
    assert failed.detail.next_retry_time == (None if delay is None else last.time + delay)
    (attempt,) = [attempt for attempt in client.attempts(run.id) if attempt.number == 1]
    assert attempt.error == failed.detail.error
