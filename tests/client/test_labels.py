"""Labels, and the other filters of list, from Python."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobstate_client import AsyncClient, Client, InvalidField, NewJob
from jobstate_client.testing import JobstateServer


def test_jobs_are_created_listed_and_watched_by_labels(client: Client) -> None:
    client.create("default", id="one", labels={"tenant": "acme", "env": ""})
    client.create_many([NewJob("default", id="two", labels={"tenant": "acme"}), NewJob("default", id="three")])

    assert client.get("one").labels == {"tenant": "acme", "env": ""}
    assert client.get("three").labels == {}
    assert [job.id for job in client.list(labels={"tenant": "acme"}, oldest_first=True)] == ["one", "two"]
    assert [job.id for job in client.list(labels={"tenant": "acme", "env": ""})] == ["one"]
    with client.watch(labels={"tenant": "acme"}, start="earliest", follow=False) as watch:
        assert [event.job.id for event in watch] == ["one", "two"]


def test_jobs_are_erased_by_labels(client: Client) -> None:
    client.create_many([NewJob("default", id=job_id, labels={"customer": job_id}) for job_id in ("12", "13")])
    client.cancel("12")

    done = client.erase(labels={"customer": "12"})

    assert (done.jobs, done.events) == (1, 2)
    assert client.erase(labels={"customer": "13"}).unfinished_job_ids == ("13",)
    wrong: Any = {"customer": 12}
    with pytest.raises(TypeError, match="labels\\['customer'\\] must be a text"):
        client.erase(labels=wrong)
    with pytest.raises(InvalidField, match="labels"):
        client.erase(labels={"customer": "12"}, source_id="12")


def test_jobs_are_listed_by_worker_error_and_end(client: Client, server: JobstateServer) -> None:
    for job_id in ("failed", "done", "new"):
        client.create("resting", id=job_id, max_retries=0)
    client.fail(client.start("failed", worker="w-1"), "BAD_MODEL", retryable=False)
    server.advance(100)
    client.complete(client.start("done", worker="w-2"))

    assert [job.id for job in client.list(worker="w-1")] == ["failed"]
    assert [job.id for job in client.list(error_code="BAD_MODEL")] == ["failed"]
    first, last = (client.get(job_id).complete_time for job_id in ("failed", "done"))
    assert first is not None
    assert last is not None
    assert [job.id for job in client.list(completed_from=first)] == ["done", "failed"]
    assert [job.id for job in client.list(completed_from=first, completed_before=last)] == ["failed"]
    assert [job.id for job in client.list(completed_before=last + timedelta(seconds=1), worker="w-2")] == ["done"]
    assert not list(client.list(completed_from=datetime(2100, 1, 1, tzinfo=UTC)))


async def test_the_asyncio_client_has_the_same_filters(server: JobstateServer) -> None:
    async with AsyncClient(server.address) as client:
        await client.create("default", id="one", labels={"a": "1"})
        assert [job.id async for job in client.list(labels={"a": "1"}, worker="", error_code="")] == ["one"]


@pytest.mark.parametrize("labels", ["a=1", [("a", "1")], {"a": 1}, {1: "a"}])
def test_labels_that_are_no_texts_are_refused_before_anything_is_sent(client: Client, labels: Any) -> None:
    for call in (
        lambda: client.create("default", labels=labels),
        lambda: client.list(labels=labels),
        lambda: client.watch(labels=labels),
    ):
        with pytest.raises(TypeError, match="labels"):
            call()


def test_a_bad_label_is_told_by_its_name(client: Client) -> None:
    with pytest.raises(InvalidField, match=r"labels\[a\]: has 65 bytes"):
        client.create("default", labels={"a": "x" * 65})
    with pytest.raises(InvalidField, match="labels: the key 'a b' must be"):
        list(client.list(labels={"a b": ""}))
