"""Work is acquired, released and explained, and jobs are created with all that decides when they are handed out."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest

from jobstate_client import (
    AttemptOutcome,
    CancelCause,
    Client,
    EventType,
    HoldReason,
    InvalidField,
    NewJob,
    Priority,
    State,
    TransitionNotAllowed,
    UniqueUntil,
    WaitReason,
)
from jobstate_client.core import creating, dispatch
from jobstate_client.testing import JobstateServer

from .support import done, in_thread, items, until


async def test_work_is_acquired_in_its_order_with_a_lease(either: Any) -> None:
    await done(either.create_many(NewJob("work", id=f"job-{number}") for number in range(3)))
    await done(either.create("work", id="urgent", priority="urgent"))
    await done(either.create("other"))

    first, second = await done(either.acquire(["work"], max_jobs=2, lease=timedelta(seconds=7), worker="me"))
    (third,) = await done(either.acquire(["work"]))

    assert (first.id, second.id, third.id) == ("urgent", "job-0", "job-1")
    assert (first.state, first.attempt, first.claimed, first.worker) == (State.PROCESSING, 1, True, "me")
    assert (first.lease, third.lease) == (timedelta(seconds=7), timedelta(minutes=1))
    assert (first.priority, second.priority) == (Priority.URGENT, Priority.NORMAL)
    assert (await done(either.complete(first))).state is State.COMPLETED


async def test_nothing_is_acquired_where_nothing_is_ready(either: Any) -> None:
    assert await done(either.acquire(["work"])) == ()


def test_an_acquire_waits_until_something_is_ready_or_its_wait_is_over(client: Client, server: JobstateServer) -> None:
    delayed = client.create("work", delay=3_600)
    for is_created in (False, True):
        with in_thread(lambda: client.acquire(["work"], wait=60)) as acquired:
            until(lambda: client.explain(delayed).waiting_acquires == 1)
            if is_created:
                client.create("work", id="first")
            else:
                server.advance(60)
            jobs = acquired()
        assert [job.id for job in jobs] == ["first"] * is_created


def test_acquires_that_wait_leave_room_for_other_calls_of_the_client(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobstate_client.core.watch_connections.WATCHES_PER_CONNECTION_MAX", 2)
    delayed = client.create("work", delay=3_600)
    with ExitStack() as waiting:
        results = [waiting.enter_context(in_thread(lambda: client.acquire(["work"], wait=60))) for _ in range(5)]
        until(lambda: client.explain(delayed).waiting_acquires == 5)
        assert len(client._watch_channels) == 2
        client.create_many(NewJob("work") for _ in range(5))
        assert sum(len(jobs()) for jobs in results) == 5
    assert client._connections._watches == [0, 0, 0]


async def test_a_repeated_acquire_returns_the_same_jobs(either: Any) -> None:
    await done(either.create_many(NewJob("work") for _ in range(4)))

    first = await done(either.acquire(["work"], max_jobs=2, request_id="my-own-id"))
    again = await done(either.acquire(["work"], max_jobs=2, request_id="my-own-id", wait=20))

    assert [job.id for job in again] == [job.id for job in first]
    assert len(await done(either.acquire(["work"], max_jobs=9))) == 2


def test_the_time_that_an_acquire_waits_is_added_to_the_timeout_of_the_client() -> None:
    assert dispatch.acquire(["work"], wait=20).timeout_s(30.0) == 50.0
    assert dispatch.acquire(["work"], wait=20, timeout=5).timeout_s(30.0) == 5.0
    assert dispatch.acquire(["work"]).timeout_s(30.0) == 30.0


async def test_a_released_job_costs_no_retry_and_waits_for_its_delay(either: Any, server: JobstateServer) -> None:
    job = await done(either.start(await done(either.create("work"))))
    delayed = await done(either.release(job, "429", delay=20, tokens=5))
    server.advance(20)
    (second,) = await done(either.acquire(["work"]))
    ready = await done(either.release(second))
    (attempt, _) = await done(either.attempts(job))
    (event, _) = await items(either.watch(types=[EventType.RELEASED], start="earliest", follow=False))

    assert (delayed.state, delayed.retry_count, delayed.wait_reason) == (State.RETRYING, 0, WaitReason.TIME)
    assert (second.attempt, ready.attempt, ready.claimed) == (2, 3, False)
    assert (ready.state, ready.wait_reason, ready.ready_time) == (State.PROCESSING, WaitReason.TURN, second.ready_time)
    assert (attempt.outcome, attempt.tokens) == (AttemptOutcome.RELEASED, 5)
    assert (event.detail.reason, event.detail.delay, event.detail.attempt) == ("429", timedelta(seconds=20), 1)


async def test_a_delayed_job_is_not_begun_and_says_why(either: Any, server: JobstateServer) -> None:
    job = await done(either.create("work", delay=timedelta(minutes=10)))
    later = await done(either.create("work", not_before_time=server.now + timedelta(minutes=20)))

    with pytest.raises(TransitionNotAllowed) as refused:
        await done(either.start(job))
    told = await done(either.explain(job))

    assert refused.value.why == "held back"
    assert (job.wait_reason, job.ready_time) == (WaitReason.TIME, server.now + timedelta(minutes=10))
    assert later.ready_time == server.now + timedelta(minutes=20)
    assert told.holds[0].reason is HoldReason.TIME
    assert told.holds[0].end_time == job.ready_time
    assert told.holds[0].text
    assert (told.ahead_in_lane, told.waiting_acquires, told.expected_start_time) == (None, 0, None)


async def test_a_ready_job_says_how_many_come_before_it(either: Any) -> None:
    await done(either.create_many(NewJob("work") for _ in range(2)))
    last = await done(either.create("work"))

    told = await done(either.explain(last.id))

    assert told.ahead_in_lane == 2
    assert {hold.reason for hold in told.holds} == {HoldReason.TURN, HoldReason.NO_WORKER}


async def test_a_job_that_nobody_begins_in_time_is_cancelled(either: Any, server: JobstateServer) -> None:
    job = await done(either.create("work", start_within=5))
    server.advance(5)
    expired = await done(either.get(job))
    stats = await done(either.stats())

    assert job.start_within == timedelta(seconds=5)
    assert (expired.state, expired.cancel_cause) == (State.CANCELLED, CancelCause.EXPIRED)
    assert stats.total.expired == 1


async def test_a_unique_key_returns_the_job_that_has_it(either: Any) -> None:
    job = await done(either.create("work", unique_key="episode-12"))
    same = await done(either.create("work", unique_key="episode-12"))
    (one, other) = await done(
        either.create_many([NewJob("work", unique_key="episode-12"), NewJob("work", unique_key="episode-13")])
    )

    assert (job.existing, same.existing, one.existing, other.existing) == (False, True, True, False)
    assert same == job
    assert (one.id, same.unique_key) == (job.id, "episode-12")


async def test_a_unique_key_may_be_free_again_once_the_job_has_started(either: Any) -> None:
    key = {"unique_key": "episode-12", "unique_until": UniqueUntil.STARTED}
    job = await done(either.start(await done(either.create("work", **key))))
    second = await done(either.create("work", **key))

    assert not second.existing
    assert second.id != job.id


async def test_statistics_and_policies_tell_of_dispatch(either: Any) -> None:
    await done(either.create_many(NewJob("work") for _ in range(3)))
    await done(either.create("work", delay=60))
    released, _ = await done(either.acquire(["work"], max_jobs=2))
    await done(either.release(released))

    stats, types = (await done(either.stats())).total, await done(either.job_types())

    assert stats.waiting == {WaitReason.TURN: 2, WaitReason.TIME: 1}
    assert (stats.running, stats.released, stats.oldest_ready_time) == (1, 1, released.ready_time)
    policy = next(each for each in types.types if each.name == "default")
    assert (policy.lease, policy.priority_step) == (timedelta(minutes=1), timedelta(minutes=10))


async def test_bad_arguments_are_named(either: Any) -> None:
    with pytest.raises(ValueError, match="'top' is not a Priority; it must be one of BACKGROUND, LOW, NORMAL"):
        await done(either.create("work", priority="top"))
    with pytest.raises(ValueError, match="is not a UniqueUntil"):
        await done(either.create("work", unique_key="x", unique_until="never"))
    with pytest.raises(TypeError, match="delay and not_before_time both set when the job may begin"):
        await done(either.create("work", delay=1, not_before_time=datetime.now().astimezone()))
    with pytest.raises(TypeError, match="a NewJob has all the fields"):
        await done(either.create(NewJob("work"), priority=Priority.LOW))
    with pytest.raises(TypeError, match="job_types must be a list"):
        await done(either.acquire("work"))
    with pytest.raises(TypeError, match="delay must be a timedelta or a number of seconds"):
        await done(either.release("first", delay="20s"))
    bad: dict[str, dict[str, Any]] = {
        "job_types": {"job_types": []},
        "wait": {"job_types": ["work"], "wait": 61},
        "lease": {"job_types": ["work"], "lease": 1},
        "max_jobs": {"job_types": ["work"], "max_jobs": 1_001},
    }
    for field, arguments in bad.items():
        with pytest.raises(InvalidField) as refused:
            await done(either.acquire(**arguments, timeout=5))
        assert refused.value.field == field
    for field in ("delay", "start_within"):
        with pytest.raises(InvalidField) as refused:
            await done(either.create("work", **{field: -1}))
        assert refused.value.field == field


def test_every_priority_is_one_of_the_contract() -> None:
    sent = {creating.create("work", priority=each).request.priority for each in Priority if each.is_known}  # type: ignore[attr-defined]

    assert sent == {1, 2, 3, 4, 5}
