"""The Python of the page on needs and groups runs as written, but for the address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobstate_client import Client, JobExists, Run, State, WaitReason
from jobstate_client.testing import JobstateServer

from .test_docs import ROOT, examples, run, section

PAGE = (ROOT / "docs" / "groups.md").read_text("utf-8")


def test_the_pipeline_the_group_and_what_a_run_does_work_as_the_page_shows(
    server: JobstateServer, client: Client
) -> None:
    pipeline, in_a_run = examples(section("From Python", PAGE))
    names = run(pipeline + in_a_run, server)

    clean, day = names["clean"], names["day"]
    assert clean.wait_reason is WaitReason.NEEDS
    assert client.get(day).members == names["client"].get(day).members
    assert [client.get(day).members.total, client.get(day).members.closed] == [4, True]  # type: ignore[union-attr]

    client.complete(client.start(names["fetch"]), result={"words": 3})
    server.advance(0)
    with client.run(clean) as summing:
        summing.result = names["summarise"](summing)
    assert client.get(clean).result == {"words": 3}

    with client.group("split_site") as site:
        whole = site.create("split", metadata={"parts": [1, 2]})
    with client.run(whole) as splitting:
        names["split"](splitting)
    assert [job.metadata["part"] for job in client.list(group=site, states=[State.QUEUED], oldest_first=True)] == [1, 2]


@pytest.fixture
def recipes(server: JobstateServer) -> dict[str, Any]:
    """The functions of the recipes, with a client of this server."""
    begin, _, _ = examples(section("From Python", PAGE))[0].partition("fetch = ")
    return run(begin + "\n".join(examples(section("Recipes", PAGE))), server)


def work(client: Client, server: JobstateServer, job_type: str, handler: Callable[[Run], Any] = lambda _: None) -> int:
    """Do all jobs of a type that are ready, and what follows from them. Returns how many there were."""
    jobs = list(client.list(job_types=[job_type], wait_reasons=["turn"]))
    for job in jobs:
        with client.run(job) as going:
            going.result = handler(going)
    server.advance(0)
    return len(jobs)


def states(client: Client, job_type: str) -> list[State]:
    return [job.state for job in client.list(job_types=[job_type])]


def test_the_pipeline_goes_on_from_job_to_job(server: JobstateServer, client: Client, recipes: dict[str, Any]) -> None:
    recipes["pipeline"]("episode-12")

    assert [work(client, server, each) for each in ("notify", "clean_transcript", "extract_insights", "notify")] == [
        *(0, 1, 1, 1)
    ]


def test_the_fan_in_has_the_results_of_all(server: JobstateServer, client: Client, recipes: dict[str, Any]) -> None:
    last = recipes["posts"]("episode-12")
    assert work(client, server, "generate_posts", lambda _: {"text": "post"}) == 10

    assert work(client, server, "publish", recipes["publish"]) == 1

    assert client.get(last).result == {"posts": [{"text": "post"}] * 10}


@pytest.mark.parametrize(("failures", "followed"), [(10, "report"), (11, "alert")])
def test_the_nightly_import_tolerates_ten_failures_and_exists_once(
    server: JobstateServer, client: Client, recipes: dict[str, Any], failures: int, followed: str
) -> None:
    recipes["nightly_import"]("2026-03-01", [f"episode-{number}" for number in range(20)])
    with pytest.raises(JobExists):
        recipes["nightly_import"]("2026-03-01", [])
    for job in list(client.list(job_types=["import_episode"]))[:failures]:
        client.cancel(job)
    server.advance(0)

    assert work(client, server, "import_episode") == (10 if failures == 10 else 0)

    server.advance(0)
    assert work(client, server, followed) == 1
    assert states(client, "report") == [State.COMPLETED if followed == "report" else State.QUEUED]
    assert states(client, "alert") == [State.COMPLETED if followed == "alert" else State.CANCELLED]


def test_the_crawler_grows_its_own_group(server: JobstateServer, client: Client, recipes: dict[str, Any]) -> None:
    site = recipes["crawl_site"]("/")
    assert work(client, server, "crawl", recipes["crawl_page"]) == 1
    assert client.get(site).state is State.PROCESSING

    assert work(client, server, "crawl", recipes["crawl_page"]) == 2

    server.advance(0)
    assert client.get(site).state is State.COMPLETED
