"""The Python of the page on needs and groups runs as written, but for the address."""

from __future__ import annotations

from jobstate_client import Client, State, WaitReason
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

    with client.group("crawl_site") as site:
        page = site.create("crawl", metadata={"links": ["/a", "/b"]})
    with client.run(page) as crawling:
        names["crawl"](crawling)
    found = list(client.list(group=site, states=[State.QUEUED]))
    assert {job.metadata["url"] for job in found} == {"/a", "/b"}
