"""Changes of all jobs that match a filter, as both clients offer them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from jobstate_client import BulkProgress, Client, InvalidField, RequestIdReused, SkipReason, State, TransitionNotAllowed
from jobstate_client.core.bulk import Filters
from jobstate_client.core.operations import list_jobs

from .support import done, items


async def failed(either: Any, *job_ids: str, **fields: Any) -> None:
    """Make jobs that are PERMANENTLY_FAILED."""
    for job_id in job_ids:
        job = await done(either.start(await done(either.create("clean_transcript", id=job_id, **fields))))
        await done(either.fail(job, retryable=False))


async def test_a_job_is_recreated_with_its_terms(either: Any) -> None:
    await failed(either, "old", metadata={"a": 1}, lane="tenant")

    new = await done(either.recreate("old"))

    assert (new.recreated_from, new.state, new.metadata, new.lane) == ("old", State.QUEUED, {"a": 1}, "tenant")
    with pytest.raises(TransitionNotAllowed):
        await done(either.recreate(new))


async def test_the_holder_of_the_unique_key_is_returned(either: Any) -> None:
    await failed(either, "old", unique_key="key")
    first = await done(either.recreate("old"))

    again = await done(either.recreate("old"))

    assert (first.existing, again.existing, again.id) == (False, True, first.id)


async def test_all_that_match_are_recreated_once(either: Any) -> None:
    await failed(either, *"123")
    filters: dict[str, Any] = {"states": [State.PERMANENTLY_FAILED], "job_types": ["clean_transcript"]}

    counts = await done(either.recreate_many(**filters, dry_run=True))
    progress = await done(either.recreate_many(**filters, request_id="request-1"))
    again = await done(either.recreate_many(**filters, request_id="request-1"))

    assert counts == BulkProgress(3, 3, {}, False, False, ("1", "2", "3"))
    assert progress == BulkProgress(3, 3, {}, False, False, ("1", "2", "3"), "request-1")
    assert (again.done, again.job_ids) == (3, ())
    assert sorted(job.recreated_from for job in await items(either.list(states=["QUEUED"]))) == ["1", "2", "3"]
    with pytest.raises(RequestIdReused):
        await done(either.recreate_many(all=True, request_id="request-1"))


async def test_jobs_are_retried_and_cancelled_and_what_is_skipped_is_named(either: Any) -> None:
    retrying = await done(either.start(await done(either.create("clean_transcript", id="retrying"))))
    await done(either.fail(retrying, retry_delay=60.0))
    await failed(either, "ended")

    retried = await done(either.retry_many(states=["RETRYING", "PERMANENTLY_FAILED"], immediately=True))
    cancelled = await done(either.cancel_many("no longer needed", all=True, limit=1))

    assert (retried.matched, retried.done, retried.skipped) == (2, 1, {SkipReason.RETRIES: 1})
    assert (cancelled.job_ids, cancelled.limit_reached) == (("retrying",), True)
    assert (await done(either.get("retrying"))).cancel_reason == "no longer needed"


async def test_an_empty_filter_and_one_that_is_none_are_refused(either: Any) -> None:
    with pytest.raises(InvalidField) as refusal:
        await done(either.cancel_many())
    with pytest.raises(TypeError, match="'page_size' is not a filter"):
        await done(either.cancel_many(page_size=5))

    assert refusal.value.field == "filter"


def test_calls_go_on_until_there_is_no_more_to_do(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [BulkProgress(1, 1, {}, True, False, ("1",)), BulkProgress(2, 2, {}, False, False, ("2",))]
    requests = []

    def invoke(_client: Client, call: Any) -> BulkProgress:
        requests.append(call.request)
        return answers.pop(0)

    monkeypatch.setattr(Client, "_invoke", invoke)

    progress = client.recreate_many(all=True)

    assert (progress.done, progress.job_ids) == (2, ("1", "2"))
    assert requests[0] == requests[1]
    assert progress.request_id == requests[0].request_id


def test_the_filters_are_those_of_list() -> None:
    own = {"oldest_first", "page_size", "timeout"}

    assert set(Filters.__annotations__) == set(inspect.signature(list_jobs).parameters) - own
