"""The Python of the page on needs and groups runs as written, but for the address, and events are as it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from jobstate_client import CancelCause, Client, Event, GroupPolicy, Job, JobExists, Need, Run, State, WaitReason
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
    members = client.get(day).members
    assert members is not None
    assert (members.total, members.closed) == (4, True)

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


def events(client: Client, *jobs: Job | str) -> list[Event]:
    """What the log says of these jobs, or of all."""
    return list(client.watch(job_ids=jobs, start="earliest", follow=False))


def names(told: list[Event]) -> list[str]:
    return [event.name.removeprefix("processing-job") for event in told]


def test_the_events_of_a_group_are_those_that_the_page_tells(server: JobstateServer, client: Client) -> None:
    rows = re.findall(r"^\| (`\.[^|]*) \|", section("What the events say", PAGE), re.MULTILINE)
    begin, progress, completed, failed, cancelled = (re.findall(r"`([^`]+)`", row) for row in rows)
    with client.group("import_day") as good:
        members = [good.create("fetch") for _ in range(2)]
    for member in members:
        client.complete(client.start(member))
        server.advance(1)
    with client.group("import_day") as bad:
        client.cancel(bad.create("fetch"))
    server.advance(0)
    stopped = client.create("import_day", group=GroupPolicy())
    client.cancel(stopped)
    server.advance(1)

    assert names(events(client, good.id)) == [*begin, *progress, *completed]
    assert names(events(client, bad.id)) == [*begin, *failed]
    assert names(events(client, stopped)) == [*begin, *cancelled]
    last = [events(client, group)[-1].job for group in (good.id, bad.id)]
    assert [job.members for job in last] == [client.get(job).members for job in last]
    assert last[1].last_error is not None
    assert (last[1].last_error.code, "1 of 1" in last[1].last_error.message) == ("MEMBERS_FAILED", True)


def test_what_is_needed_ends_first_and_only_a_cancelled_group_before_its_members(
    server: JobstateServer, client: Client
) -> None:
    with client.group("import_day", id="outer") as outer:
        client.create("fetch", id="fetch", group_id=outer.create("import_hour", id="inner", group=GroupPolicy()).id)
    client.create("clean", id="clean", needs=["fetch"])
    client.create("report", id="report", needs=[Need("outer", "final")])
    client.cancel("inner")
    server.advance(1)

    ends = [
        (event.job.id, event.detail.cause, event.detail.cause_id)
        for event in events(client)
        if event.name == "processing-job.cancelled" and event.detail is not None
    ]
    assert ends == [
        ("inner", CancelCause.CALLER, ""),
        ("fetch", CancelCause.GROUP, "inner"),
        ("clean", CancelCause.NEED, "fetch"),
    ]
    order = [(event.job.id, event.job.state) for event in events(client)]
    assert order.index(("outer", State.PERMANENTLY_FAILED)) > order.index(("inner", State.CANCELLED))
    assert names(events(client, "report")) == [".queued", ".ready"]
