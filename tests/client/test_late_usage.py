"""The usage of an attempt is counted although its last report was refused: by runs, by calls, by both clients."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import pytest

from jobstate_client import (
    AttemptSuperseded,
    EventType,
    InvalidField,
    JobCancelled,
    JobStateError,
    State,
    TransitionNotAllowed,
)
from jobstate_client.core import operations
from jobstate_client.core.late_usage import late_usage

from .support import Either, done, items


async def used(client: Any, job: Any) -> tuple[int, float]:
    """What the job has used by now."""
    now = await done(client.get(job))
    return now.estimated_tokens, now.estimated_cost


async def begun(client: Any, **fields: Any) -> Any:
    return await done(client.start(await done(client.create("default", **fields))))


async def superseded(client: Any) -> Any:
    """An attempt that failed, and after which another is running."""
    job = await begun(client)
    await done(client.fail(job))
    await done(client.retry(job, immediately=True))
    await done(client.start(job.id))
    return job


REPORTS = {
    "progress": lambda client, job: client.progress(job, 50, tokens=70, cost=0.5),
    "complete": lambda client, job: client.complete(job, tokens=70, cost=0.5),
    "fail": lambda client, job: client.fail(job, tokens=70, cost=0.5),
}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
async def test_a_call_that_is_refused_because_its_attempt_is_over_books_its_usage(either: Any, report: Any) -> None:
    job = await superseded(either)

    with pytest.raises(AttemptSuperseded):
        await done(report(either, job))

    assert await used(either, job) == (70, 0.5)
    (attempt,) = await done(either.attempts(job))
    assert (attempt.number, attempt.tokens, attempt.cost) == (1, 70, 0.5)


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
async def test_a_call_that_is_refused_because_its_job_is_final_books_its_usage(either: Any, report: Any) -> None:
    job = await begun(either)
    await done(either.cancel(job))

    with pytest.raises(TransitionNotAllowed):
        await done(report(either, job))

    assert await used(either, job) == (70, 0.5)
    assert (await done(either.get(job))).state == State.CANCELLED


async def test_a_refused_call_without_usage_books_nothing(either: Any) -> None:
    job = await superseded(either)

    with pytest.raises(AttemptSuperseded):
        await done(either.complete(job))

    events = await items(either.watch(job_ids=[job.id], start="earliest", follow=False))
    assert EventType.USAGE not in [event.type for event in events]


async def test_a_refusal_stays_what_it_is_when_its_usage_cannot_be_booked(
    either: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = await done(either.create("default"))

    with caplog.at_level(logging.WARNING), pytest.raises(AttemptSuperseded):
        await done(either.complete(job.id, attempt=1, tokens=5))

    assert "usage of a refused report could not be reported" in caplog.text


async def test_a_run_whose_job_was_cancelled_books_what_it_used(either: Any) -> None:
    job = await done(either.create("default"))

    async def work() -> None:
        async with Either(either.run(job)) as run:
            await done(either.cancel(job))
            run.usage(tokens=900, cost=0.25)

    with pytest.raises(JobCancelled):
        await work()

    assert await used(either, job) == (900, 0.25)


async def test_a_run_that_was_superseded_books_what_it_used_also_when_its_body_fails(either: Any) -> None:
    job = await done(either.create("default"))

    async def work() -> None:
        async with Either(either.run(job)) as run:
            run.usage(tokens=900)
            await done(either.fail(job.id, attempt=1))
            await done(either.retry(job, immediately=True))
            await done(either.start(job.id))
            with suppress(AttemptSuperseded):
                run.usage(cost=0.125)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await work()

    assert await used(either, job) == (900, 0.125)
    (attempt,) = await done(either.attempts(job))
    assert (attempt.tokens, attempt.cost) == (900, 0.125)


async def test_a_run_without_usage_that_was_cancelled_reports_nothing_more(either: Any) -> None:
    job = await done(either.create("default"))

    async def work() -> None:
        async with Either(either.run(job)):
            await done(either.cancel(job))

    with pytest.raises(JobCancelled):
        await work()

    events = await items(either.watch(job_ids=[job.id], start="earliest", follow=False))
    assert events[-1].type is EventType.CANCELLED


async def test_usage_of_any_attempt_is_reported_by_hand(either: Any) -> None:
    job = await superseded(either)

    told = await done(either.report_usage(job, tokens=12))
    assert (told.estimated_tokens, told.attempt) == (12, 2)
    assert (await done(either.report_usage(job.id, attempt=2, cost=1.5))).estimated_cost == 1.5

    event = (await items(either.watch(job_ids=[job.id], start="earliest", follow=False)))[-2]
    assert event.type is EventType.USAGE
    assert (event.detail.attempt, event.detail.tokens, event.detail.cost) == (1, 12, 0.0)
    for wrong in ({"attempt": 3, "tokens": 1}, {"tokens": 1}, {"attempt": 1}):
        with pytest.raises(InvalidField):
            await done(either.report_usage(job.id, **wrong))


def test_only_refusals_that_end_an_attempt_report_usage() -> None:
    late = AttemptSuperseded("over")
    named = operations.complete("job", attempt=2, tokens=1)

    assert late_usage(named, late) is not None
    assert late_usage(named, JobStateError("other")) is None
    assert late_usage(operations.complete("job", tokens=1), late) is None
    assert late_usage(operations.complete("job", attempt=2), late) is None
    assert late_usage(operations.cancel("job"), late) is None
