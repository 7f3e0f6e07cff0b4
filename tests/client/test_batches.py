"""Any number of jobs is created, in batches. A failure says what was created before it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from jobstate_client import AttemptSuperseded, Client, InvalidField, JobExists, NewJob, State
from jobstate_client.core import creating, limits
from jobstate_client.testing import JobstateServer

from .support import done


async def test_more_jobs_than_fit_a_batch_are_created_in_order(either: Any) -> None:
    made = await done(either.create_many(NewJob("work", id=f"job-{number}") for number in range(2_001)))

    assert [job.id for job in made] == [f"job-{number}" for number in range(2_001)]


async def test_none_are_created_without_a_call(either: Any, server: JobstateServer) -> None:
    server.stop()

    assert await done(either.create_many([])) == ()


async def test_a_batch_that_fails_says_what_was_created_before_it(either: Any) -> None:
    await done(either.create("work", id="job-1500"))

    with pytest.raises(JobExists) as refused:
        await done(either.create_many(NewJob("work", id=f"job-{number}") for number in range(2_500)))

    error = refused.value
    assert [job.id for job in error.created] == [f"job-{number}" for number in range(1_000)]
    assert "the first 1,000 jobs had been created before" in "".join(traceback.format_exception(error))
    stats = await done(either.stats(["work"]))
    assert stats.total.stored[State.QUEUED] == 1_001


async def test_a_field_is_named_by_its_place_in_the_whole(either: Any) -> None:
    jobs = [NewJob("work", lane="x" * (200 if number == 1_200 else 1)) for number in range(1_300)]

    with pytest.raises(InvalidField) as refused:
        await done(either.create_many(jobs))

    assert (refused.value.field, len(refused.value.created)) == ("requests[1200].lane", 1_000)
    assert refused.value.violations[0][0] == "requests[1200].lane"
    assert "requests[1200].lane" in str(refused.value)


async def test_a_generator_that_fails_says_what_was_created_before(either: Any) -> None:
    def jobs() -> Iterator[NewJob]:
        yield from (NewJob("work") for _ in range(1_010))
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone") as failed:
        await done(either.create_many(jobs()))

    assert failed.value.__notes__ == ["the first 1,000 jobs had been created before"]


def test_a_job_that_cannot_be_sent_is_named(client: Client) -> None:
    with pytest.raises(TypeError) as refused:
        client.create_many([NewJob("work"), NewJob("work", metadata={"at": object()})])

    assert refused.value.__notes__ == ["in job 1 of create_many, counted from 0"]


def test_a_batch_keeps_to_the_servers_bytes_and_needs() -> None:
    large = [NewJob("work", metadata={"text": "x" * 60_000}) for _ in range(150)]
    needy = [NewJob("work", needs=[f"job-{number}" for number in range(100)]) for _ in range(25)]

    sizes = [call.request.ByteSize() for call in creating.create_many(large).calls]
    needs = [len(call.request.requests) for call in creating.create_many(needy).calls]  # type: ignore[attr-defined]

    assert len(sizes) == 2
    assert max(sizes) <= limits.REQUEST_BYTES_MAX
    assert needs == [10, 10, 5]


def test_a_large_batch_is_taken(client: Client) -> None:
    large = [NewJob("work", metadata={"text": "x" * 60_000}) for _ in range(150)]

    assert len(client.create_many(large)) == 150


async def test_the_members_that_a_run_creates_may_be_many(either: Any) -> None:
    job = await done(either.start(await done(either.create("work"))))
    many = [NewJob("page", by=job) for _ in range(1_001)]

    assert len(await done(either.create_many(many))) == 1_001
    await done(either.release(job))
    with pytest.raises(AttemptSuperseded) as refused:
        await done(either.create_many(many))
    assert refused.value.created == ()
