"""A run starts, reports and ends one attempt, whatever happens in its block."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from jobstate_client import (
    AttemptSuperseded,
    Client,
    EventType,
    InvalidField,
    JobCancelled,
    JobFailure,
    NewJob,
    NonRetryable,
    Run,
    State,
    TransitionNotAllowed,
    Unreachable,
)
from jobstate_client.core.limits import DOCUMENT_BYTES_MAX
from jobstate_client.testing import JobstateServer

from .support import Either, done, in_thread, until


@pytest.fixture
async def job(either: Any) -> Any:
    return await done(either.create("clean_transcript", id="first"))


async def until_over(run: Run) -> None:
    """Wait until the server has refused a report of this run."""
    await asyncio.to_thread(until, lambda: run.is_over)


async def test_a_run_completes_its_job(either: Any, job: Any) -> None:
    async with Either(either.run(job, worker="me")) as run:
        run.progress(50, "half way", page=3)
        run.usage(tokens=100)
        run.usage(cost=0.5)
        run.result = {"text": "…"}
        run.result_count = 12

    ended = await done(either.get(job))
    assert (ended.state, ended.worker, ended.attempt) == (State.COMPLETED, "me", 1)
    assert (ended.metadata, ended.progress_message) == ({"page": 3}, "half way")
    assert (ended.result, ended.result_count) == ({"text": "…"}, 12)
    assert (ended.estimated_tokens, ended.estimated_cost) == (100, 0.5)


async def test_a_run_creates_its_job_and_names_its_worker(either: Any) -> None:
    async with Either(either.run(NewJob("default", source_id="x"))) as run:
        assert run.attempt == 1

    ended = await done(either.get(run.id))
    assert (ended.state, ended.source_id) == (State.COMPLETED, "x")
    assert ended.worker


async def test_reports_do_not_wait_for_the_server_and_the_last_one_arrives(
    either: Any, job: Any, server: JobstateServer
) -> None:
    async with Either(either.run(job)) as run:
        server.stop()
        for percent in range(100):
            run.progress(percent, f"at {percent}", **{f"key-{percent % 7}": percent})
        server.start()

    ended = await done(either.get(job))
    assert (ended.state, ended.progress_message) == (State.COMPLETED, "at 99")
    assert ended.metadata == {f"key-{number % 7}": number for number in range(93, 100)}


async def test_many_reports_become_few_events(either: Any, client: Client, job: Any) -> None:
    async with Either(either.run(job)) as run:
        for percent in range(1_000):
            run.progress(percent / 10)

    told = [event.type for event in client.watch(job_ids=[job], start="earliest", follow=False)]
    assert 1 <= told.count(EventType.PROGRESS) <= 50


@pytest.mark.parametrize(
    ("error", "code", "message", "retryable"),
    [
        (ValueError("bad input"), "ValueError", "bad input", True),
        (NonRetryable("no such file"), "NonRetryable", "no such file", False),
        (NonRetryable("no such file", code="NO_FILE"), "NO_FILE", "no such file", False),
        (JobFailure("slow down", code="RATE_LIMITED"), "RATE_LIMITED", "slow down", True),
        (JobFailure("never", retryable=False), "JobFailure", "never", False),
        (KeyError("\0 and \ud800" + "ä" * 5_000), "KeyError", None, True),
        (asyncio.CancelledError(), "CancelledError", "", True),
        (KeyboardInterrupt(), "KeyboardInterrupt", "", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_an_exception_fails_the_attempt_and_is_raised_on(
    either: Any, job: Any, error: BaseException, code: str, message: str | None, retryable: bool
) -> None:
    with pytest.raises(type(error)) as raised:
        async with Either(either.run(job)):
            raise error

    ended = await done(either.get(job))
    assert raised.value is error
    assert (ended.last_error.code, ended.last_error.retryable) == (code, retryable)
    assert message is None or ended.last_error.message == message
    assert ended.state is (State.RETRYING if retryable else State.PERMANENTLY_FAILED)


async def test_attributes_of_any_exception_say_code_and_retryability(either: Any, job: Any) -> None:
    class OutOfPaper(Exception):
        code = "OUT_OF_PAPER"
        retryable = False

    with pytest.raises(OutOfPaper):
        async with Either(either.run(job)):
            raise OutOfPaper

    ended = await done(either.get(job))
    assert (ended.state, ended.last_error.code) == (State.PERMANENTLY_FAILED, "OUT_OF_PAPER")


@pytest.mark.parametrize(("error", "state"), [(OSError(), State.RETRYING), (ValueError(), State.PERMANENTLY_FAILED)])
async def test_a_predicate_decides_what_is_retryable(either: Any, job: Any, error: Exception, state: State) -> None:
    with pytest.raises(type(error)):
        async with Either(either.run(job, is_retryable=lambda error: isinstance(error, OSError))):
            raise error

    assert (await done(either.get(job))).state is state


async def test_a_failure_carries_details_and_its_own_delay(either: Any, job: Any, server: JobstateServer) -> None:
    async def work() -> None:
        async with Either(either.run(job)) as run:
            run.usage(tokens=5)
            raise JobFailure("slow down", details={"limit": 5}, retry_delay=7.0)

    with pytest.raises(JobFailure):
        await work()

    failed = await done(either.get(job))
    assert (failed.last_error.details, failed.estimated_tokens) == ({"limit": 5}, 5)
    assert (failed.next_retry_time - server.now).total_seconds() == 7


@pytest.mark.parametrize(
    "failure",
    [
        JobFailure("odd", details={"when": object()}),
        JobFailure("odd", retry_delay=-1.0),
        JobFailure("odd", details={"a": "x" * 9_000}),
    ],
    ids=["details that are not JSON", "a delay below zero", "too many details"],
)
async def test_a_failure_is_reported_whatever_it_carries(either: Any, job: Any, failure: JobFailure) -> None:
    with pytest.raises(JobFailure):
        async with Either(either.run(job)):
            raise failure

    assert (await done(either.get(job))).state is State.RETRYING


async def test_a_run_of_a_job_that_somebody_else_has_does_not_begin(either: Any, job: Any) -> None:
    await done(either.start(job, worker="another"))

    with pytest.raises(TransitionNotAllowed):
        async with Either(either.run(job)):
            pytest.fail("it began")

    assert (await done(either.get(job))).state is State.PROCESSING


async def test_a_run_learns_that_its_job_was_cancelled(either: Any, client: Client, job: Any) -> None:
    async def work() -> None:
        async with Either(either.run(job)) as run:
            client.cancel(job)
            run.progress(10)
            await until_over(run)
            run.progress(20)
            pytest.fail("it went on")

    with pytest.raises(JobCancelled):
        await work()

    assert (await done(either.get(job))).state is State.CANCELLED


async def test_a_silent_run_learns_of_it_by_its_heartbeats(either: Any, client: Client, job: Any) -> None:
    async def work() -> None:
        async with Either(either.run(job, heartbeat=0.01)) as run:
            client.cancel(job)
            await until_over(run)
            run.check()

    with pytest.raises(JobCancelled):
        await work()


async def test_a_result_that_comes_too_late_is_refused_and_raised(
    either: Any, job: Any, server: JobstateServer
) -> None:
    second: Any = None

    async def work() -> None:
        nonlocal second
        async with Either(either.run(job, heartbeat=None)) as run:
            run.result_count = 3
            server.advance(61.0)
            server.advance(1.0)
            second = await done(either.start(job))

    with pytest.raises(AttemptSuperseded) as refused:
        await work()

    ended = await done(either.get(job))
    assert (refused.value.attempt, refused.value.current_attempt) == (1, 2)
    assert (ended.state, ended.attempt, ended.result_count) == (State.PROCESSING, 2, 0)
    assert (await done(either.complete(second))).state is State.COMPLETED


async def test_a_failure_that_comes_too_late_leaves_the_next_attempt_alone(
    either: Any, job: Any, server: JobstateServer
) -> None:
    async def work() -> None:
        async with Either(either.run(job, heartbeat=None)):
            server.advance(61.0)
            server.advance(1.0)
            raise ValueError("bad input")

    with pytest.raises(ValueError, match="bad input") as raised:
        await work()

    assert "This failure could not be reported" in raised.value.__notes__[0]
    assert (await done(either.get(job))).state is State.PROCESSING


async def test_a_result_that_cannot_be_sent_fails_the_attempt(either: Any, job: Any) -> None:
    with pytest.raises(TypeError, match=r"result\.when: a object is not JSON"):
        async with Either(either.run(job)) as run:
            run.result = {"when": object()}

    failed = await done(either.get(job))
    assert (failed.state, failed.last_error.code) == (State.RETRYING, "TypeError")


async def test_a_result_that_the_server_refuses_fails_the_attempt(either: Any, job: Any) -> None:
    deep: dict[str, Any] = {}
    for _ in range(20):
        deep = {"deeper": deep}

    with pytest.raises(InvalidField):
        async with Either(either.run(job)) as run:
            run.result = deep

    failed = await done(either.get(job))
    assert (failed.state, failed.last_error.code) == (State.RETRYING, "INVALID_FIELD")


async def test_a_last_report_that_is_refused_is_raised_but_does_not_cost_the_work(either: Any) -> None:
    job = await done(either.create("default", metadata={"a": "x" * (DOCUMENT_BYTES_MAX // 2)}))

    with pytest.raises(InvalidField):
        async with Either(either.run(job)) as run:
            run.progress(10, b="x" * (DOCUMENT_BYTES_MAX // 2))

    assert (await done(either.get(job))).state is State.COMPLETED


async def test_a_bad_report_is_refused_where_it_is_made(either: Any, job: Any) -> None:
    async with Either(either.run(job)) as run:
        with pytest.raises(ValueError, match="between 0 and 100"):
            run.progress(101)
        with pytest.raises(TypeError, match=r"metadata\.when"):
            run.progress(1, when=object())

    assert (await done(either.get(job))).state is State.COMPLETED


async def test_an_end_that_cannot_be_reported_is_raised(either: Any, job: Any, server: JobstateServer) -> None:
    with pytest.raises(Unreachable, match="the end of first could not be sent"):
        async with Either(either.run(job, patience=0.2)):
            server.stop()


async def test_iterating_reports_how_far_it_has_come(either: Any, job: Any) -> None:
    async with Either(either.run(job)) as run:
        seen = list(run.track("abcd"))

    ended = await done(either.get(job))
    assert seen == ["a", "b", "c", "d"]
    assert ended.progress_message == "3 of 4"


async def test_iterating_over_what_has_no_length_counts(either: Any, job: Any) -> None:
    async with Either(either.run(job)) as run:
        assert list(run.track(iter("abc"))) == ["a", "b", "c"]

    assert (await done(either.get(job))).progress_message == "2 done"


async def test_iterating_over_what_is_asynchronous(either: Any, job: Any) -> None:
    async def letters() -> Any:
        for letter in "abcd":
            yield letter

    async with Either(either.run(job)) as run:
        assert [letter async for letter in run.track_async(letters(), total=4)] == ["a", "b", "c", "d"]

    assert (await done(either.get(job))).progress_message == "3 of 4"


async def test_many_runs_share_one_stream(either: Any, client: Client, server: JobstateServer) -> None:
    count = 30
    jobs = await done(either.create_many(NewJob("default", id=f"job-{number:02}") for number in range(count)))

    if isinstance(either, Client):

        def work(job_id: str) -> None:
            with either.run(job_id) as run:
                run.progress(50)

        started = [in_thread(partial(work, job.id)) for job in jobs]
        for thread in started:
            thread.__enter__()
        for thread in started:
            thread.__exit__(None, None, None)
    else:

        async def work_async(job_id: str) -> None:
            async with either.run(job_id) as run:
                run.progress(50)

        await asyncio.gather(*(work_async(job.id) for job in jobs))

    assert [job.state for job in client.list()] == [State.COMPLETED] * count
