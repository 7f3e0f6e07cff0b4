"""Both clients have every operation of the service, and the same ones."""

from __future__ import annotations

import inspect
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import pytest

import jobstate_client
from jobstate_client import (
    AsyncClient,
    AttemptOutcome,
    AttemptRequired,
    Client,
    EventType,
    HealthState,
    InvalidField,
    JobExists,
    JobNotFound,
    NewJob,
    RequestIdReused,
    RetryNotAllowed,
    State,
    TransitionNotAllowed,
)
from jobstate_client.core import bulk, creating, dispatch, maintenance, operations
from jobstate_client.core.batches import Batches
from jobstate_client.core.bulk import BulkCall
from jobstate_client.core.calls import RPCS, Call, Pages
from jobstate_client.testing import JobstateServer

from .support import done, items

STREAMS = {"StreamUpdates": "run", "WatchEvents": "watch"}
"""RPCs that no single call makes, and the method that uses each."""


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def builders() -> dict[str, Any]:
    """The functions that make calls, by the name of their method."""
    found = {
        name: function
        for module in (creating, bulk, operations, dispatch, maintenance)
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and str(inspect.signature(function).return_annotation).startswith(("Batches[", "BulkCall", "Call[", "Pages["))
        and not name.startswith("_")
    }
    return {("list" if name == "list_jobs" else name): function for name, function in found.items()}


def test_both_clients_offer_the_same() -> None:
    assert public(Client) == public(AsyncClient)
    assert set(builders()) <= public(Client)


def test_every_rpc_has_its_method() -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "create": ("default",),
        "create_many": ([NewJob("default")],),
        "acquire": (["default"],),
    }
    arguments |= dict.fromkeys(("pause", "unpause", "lanes", "type_status"), ("default",))
    takes_a_job = {
        "get",
        "attempts",
        "start",
        "progress",
        "complete",
        "fail",
        "report_usage",
        "retry",
        "cancel",
        "close_group",
        "recreate",
    }
    takes_a_job |= {"release", "explain", "needs"}
    calls = [build(*arguments.get(name, ("id",) if name in takes_a_job else ())) for name, build in builders().items()]
    made = {call.first.rpc for call in calls if isinstance(call, Pages)}
    made |= {call.rpc for call in calls if isinstance(call, Call)}
    made |= {bulk_call.call.rpc for bulk_call in calls if isinstance(bulk_call, BulkCall)}
    made |= {call.rpc for batches in calls if isinstance(batches, Batches) for call in batches.calls}

    assert made | set(STREAMS) == set(RPCS)
    assert set(STREAMS.values()) <= public(Client)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", builders())
def test_every_method_shows_its_own_parameters_and_its_docstring(kind: type, name: str) -> None:
    build, method = builders()[name], getattr(kind, name)

    assert method.__doc__ == build.__doc__
    assert list(inspect.signature(method).parameters) == ["self", *inspect.signature(build).parameters]
    assert "timeout" in inspect.signature(method).parameters


@pytest.mark.parametrize("name", ["create", "start", "complete", "fail", "retry", "cancel", "release", "acquire"])
def test_every_change_has_a_request_id_of_its_own(name: str) -> None:
    argument: Any = ["default"] if name == "acquire" else "first"
    first, second = builders()[name](argument), builders()[name](argument)
    given = builders()[name](argument, request_id="my-own-id")

    assert isinstance(first, Call)
    assert len(first.request_id) >= 8
    assert first.request_id != second.request_id
    assert given.request_id == "my-own-id"


def test_every_job_of_a_batch_has_a_request_id_of_its_own() -> None:
    jobs = [NewJob("default"), NewJob("default"), NewJob("default", request_id="my-own-id")]
    (call,) = creating.create_many(jobs).calls
    ids = [item.request_id for item in call.request.requests]  # type: ignore[attr-defined]

    assert len(set(ids)) == 3
    assert ids[2] == "my-own-id"


async def test_a_job_is_created_with_everything(either: Any) -> None:
    job = await done(
        either.create(
            "clean_transcript",
            id="first",
            source_id="episode-12",
            metadata={"page": 3, "tags": ["a", {}]},
            max_retries=1,
            attempt_timeout=timedelta(minutes=2),
        )
    )

    assert (job.id, job.job_type, job.source_id, job.state) == ("first", "clean_transcript", "episode-12", State.QUEUED)
    assert job.metadata == {"page": 3, "tags": ["a", {}]}
    assert (job.max_retries, job.timeout) == (1, timedelta(minutes=2))
    assert job == await done(either.get("first"))


async def test_a_job_without_timeout_and_retries_is_created(either: Any) -> None:
    job = await done(either.create(NewJob("clean_transcript", max_retries=0, attempt_timeout=0)))

    assert (job.max_retries, job.timeout) == (0, None)


async def test_a_job_is_taken_through_its_life(either: Any) -> None:
    created = await done(either.create("clean_transcript", metadata={"old": 1}))
    job = await done(either.start(created, worker="me"))
    reported = await done(either.progress(job, 50, "half way", metadata={"new": 2, "old": None}, tokens=10))
    completed = await done(either.complete(job, result={"text": "…"}, result_count=3, tokens=20, cost=0.5))

    assert (job.state, job.attempt, job.worker, job.claimed) == (State.PROCESSING, 1, "me", True)
    assert (reported.progress, reported.progress_message, reported.metadata) == (50, "half way", {"new": 2})
    assert (completed.state, completed.progress, completed.is_final) == (State.COMPLETED, 100, True)
    assert (completed.result, completed.result_count) == ({"text": "…"}, 3)
    assert (completed.estimated_tokens, completed.estimated_cost) == (20, 0.5)


async def test_a_failure_has_every_fact_and_is_retried(either: Any, server: JobstateServer) -> None:
    job = await done(either.start(await done(either.create("clean_transcript"))))
    failed = await done(either.fail(job, "RATE_LIMITED", "too many", details={"limit": 5}, retry_delay=7.0))
    server.advance(7.0)
    resumed = await done(either.get(job))
    (attempt,) = await done(either.attempts(job))

    assert failed.state is State.RETRYING
    assert (failed.last_error.code, failed.last_error.retryable, failed.last_error.details) == (
        "RATE_LIMITED",
        True,
        {"limit": 5},
    )
    assert failed.next_retry_time == server.now
    assert (resumed.state, resumed.attempt, resumed.claimed) == (State.PROCESSING, 2, False)
    assert (attempt.number, attempt.outcome, attempt.error) == (1, AttemptOutcome.FAILED, failed.last_error)


async def test_a_job_stands_for_its_attempt_and_an_id_does_not(either: Any, server: JobstateServer) -> None:
    job = await done(either.start(await done(either.create("clean_transcript"))))
    await done(either.fail(job))
    server.advance(1.0)
    second = await done(either.start(job))

    with pytest.raises(AttemptRequired) as refused:
        await done(either.complete(job.id))

    assert (refused.value.current_attempt, refused.value.state) == (2, State.PROCESSING)
    assert (await done(either.complete(second))).state is State.COMPLETED


async def test_a_job_that_rests_is_retried_and_one_that_gave_up_is_not(either: Any) -> None:
    resting = await done(either.fail(await done(either.start(await done(either.create("resting"))))))
    given_up = await done(either.fail(await done(either.start(await done(either.create("default")))), retryable=False))

    retried = await done(either.retry(resting, immediately=True))
    with pytest.raises(RetryNotAllowed) as refused:
        await done(either.retry(given_up))

    assert (resting.state, retried.state, retried.attempt) == (State.FAILED, State.PROCESSING, 2)
    assert given_up.state is State.PERMANENTLY_FAILED
    assert (refused.value.why, refused.value.retry_count) == ("not retryable", 0)


async def test_a_cancelled_job_says_why(either: Any) -> None:
    job = await done(either.cancel(await done(either.create("default")), "no longer needed"))

    assert (job.state, job.cancel_reason) == (State.CANCELLED, "no longer needed")
    with pytest.raises(TransitionNotAllowed) as refused:
        await done(either.start(job))
    assert refused.value.allowed == ()


async def test_a_batch_is_created_whole_or_not_at_all(either: Any) -> None:
    made = await done(either.create_many(NewJob("default", id=f"job-{number}") for number in range(3)))

    with pytest.raises(JobExists) as refused:
        await done(either.create_many([NewJob("default", id="job-3"), NewJob("default", id="job-0")]))

    assert [job.id for job in made] == ["job-0", "job-1", "job-2"]
    assert refused.value.job_id == "job-0"
    with pytest.raises(JobNotFound):
        await done(either.get("job-3"))


async def test_a_listing_goes_through_all_pages(either: Any) -> None:
    await done(either.create_many(NewJob("default", id=f"job-{number:02}", source_id="x") for number in range(25)))
    await done(either.create("default", id="other"))

    found = await items(either.list(source_id="x", page_size=10, oldest_first=True))

    assert [job.id for job in found] == [f"job-{number:02}" for number in range(25)]


async def test_a_listing_is_narrowed_down(either: Any, server: JobstateServer) -> None:
    await done(either.create("default", id="early"))
    server.advance(60)
    await done(either.start(await done(either.create("default", id="late"))))
    since = server.now - timedelta(seconds=30)

    assert [job.id for job in await items(either.list(created_from=since))] == ["late"]
    assert [job.id for job in await items(either.list(created_before=since))] == ["early"]
    assert [job.id for job in await items(either.list(states=[State.PROCESSING]))] == ["late"]
    assert [job.id for job in await items(either.list(states=["QUEUED"], job_types=["default"]))] == ["early"]
    with pytest.raises(ValueError, match="DONE"):
        either.list(states=["DONE"])


async def test_the_jobs_are_summed_up(either: Any) -> None:
    job = await done(either.start(await done(either.create("clean_transcript"))))
    await done(either.complete(job, tokens=7, cost=0.25))
    await done(either.create("default"))

    stats = await done(either.stats())
    some = await done(either.stats(["default"]))

    assert stats.total.stored == {State.QUEUED: 1, State.COMPLETED: 1}
    assert (stats.total.completed, stats.total.tokens, stats.total.cost, stats.total.success_rate) == (1, 7, 0.25, 1.0)
    assert stats.job_types["clean_transcript"].duration_mean == timedelta(0)
    assert list(some.job_types) == ["default"]


async def test_policies_have_the_waits_before_retries(either: Any) -> None:
    known = await done(either.job_types())
    policy = next(policy for policy in known.types if policy.name == "clean_transcript")

    assert not known.strict
    assert [policy.backoff_delay(count).total_seconds() for count in (0, 1, 2, 10, 5_000)] == [1, 2, 4, 30, 30]


async def test_maintenance_tasks_are_run_and_return_their_results(either: Any, server: JobstateServer) -> None:
    silent = await done(either.start(await done(either.create("clean_transcript", id="silent", attempt_timeout=0))))
    await done(either.cancel(await done(either.create("default", id="old"))))
    server.advance(timedelta(days=31))

    dry = await done(either.check_stale(dry_run=True))
    stale = await done(either.check_stale())
    moved = await done(either.retry_failed())
    deleted = await done(either.cleanup())
    health = await done(either.check_health())
    tasks = await done(either.tasks())

    assert (dry.job_ids, dry.count, stale) == ((silent.id,), 1, dry)
    assert moved.count == 0
    assert deleted.jobs == 1
    assert health.state in set(HealthState) - {HealthState.UNKNOWN}
    assert tasks[0].name == "check-stale"


async def test_a_repeat_by_hand_changes_nothing_and_other_content_is_refused(either: Any) -> None:
    first = await done(either.create("default", request_id="my-request-1"))
    again = await done(either.create("default", request_id="my-request-1"))

    with pytest.raises(RequestIdReused) as refused:
        await done(either.create("other", request_id="my-request-1"))

    assert first == again
    assert refused.value.request_id == "my-request-1"


async def test_a_bad_field_is_named(either: Any) -> None:
    with pytest.raises(InvalidField) as refused:
        await done(either.create("no spaces allowed", source_id="x" * 300))

    assert refused.value.field == "job_type"
    assert {field for field, _ in refused.value.violations} == {"job_type", "source_id"}


async def test_states_and_kinds_of_events_are_named_in_any_case(either: Any) -> None:
    job = await done(either.create("default"))
    listed = either.list(states=["queued", "Processing", State.FAILED])

    assert [each.id for each in await items(listed)] == [job.id]
    assert [each.type for each in await items(either.watch(types=["queued"], start="earliest", follow=False))] == [
        EventType.QUEUED
    ]
    with pytest.raises(ValueError, match=r"'waiting' is not a State; it must be one of QUEUED, PROCESSING, "):
        either.list(states=["waiting"])
    with pytest.raises(ValueError, match="is not a State"):
        either.list(states=["unknown"])


def test_the_library_has_its_version() -> None:
    assert jobstate_client.__version__ == version("jobstate-grpc")
