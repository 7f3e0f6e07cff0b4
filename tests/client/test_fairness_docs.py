"""docs/fairness.md: every example runs as written, with the settings of its section, and does what the page says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from jobstate_client import Client, LaneFrom, Rate, State, Worker
from jobstate_client.testing import JobstateServer, serving

from .support import in_thread, until
from .test_docs import ROOT, examples, run, section, workers

__all__ = ["workers"]

PAGE = (ROOT / "docs/fairness.md").read_text("utf-8")

Start = Callable[[str], JobstateServer]


def settings(heading: str) -> dict[str, Any]:
    """The job types of the settings that stand under a heading."""
    files = re.findall(r"^```toml\n(.*?)^```$", section(heading, PAGE), re.MULTILINE | re.DOTALL)
    return {name: each for file in files for name, each in tomllib.loads(file)["job_types"].items()}


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server with the settings of a section."""
    started = []

    def begin(heading: str) -> JobstateServer:
        context = serving(job_types=settings(heading))
        started.append(context)
        return context.__enter__()

    yield begin
    for context in started:
        context.__exit__(None, None, None)


def example_of(heading: str) -> str:
    (example,) = examples(section(heading, PAGE))
    return example


def test_every_section_with_an_example_is_tested() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    with_examples = {heading for heading in headings if examples(section(heading, PAGE)) or settings(heading)}

    assert with_examples == {
        "Limits",
        "Pause",
        "429 with Retry-After",
        "One at a time per customer",
        "One after the other, through retries",
        "Fair without changing a caller",
        "600 calls a minute",
    }


def test_the_limits_are_taken_as_they_are_written(start: Start) -> None:
    types = {each.name: each for each in start("Limits").client().job_types().types}
    limited, minute = types["render_video"], timedelta(minutes=1)

    assert (limited.concurrency, limited.rate, limited.lane_from) == (40, Rate(600, minute, 20), LaneFrom.SOURCE_ID)
    assert (limited.lane_concurrency, limited.lane_rate) == (4, Rate(60, minute, 6))


def test_a_lane_is_paused_listed_and_unpaused(server: JobstateServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(example_of("Pause"), server)

    assert capsys.readouterr().out == "1 ready, 0 running\ntenant-7 1 0 True unpaid invoice\n"
    assert len(server.client().acquire(["generate_posts"])) == 1


def test_one_job_of_an_account_gets_the_429_and_the_others_do_not_notice(
    server: JobstateServer, client: Client, workers: list[Worker]
) -> None:
    with in_thread(lambda: run(example_of("429 with Retry-After"), server)):
        until(lambda: client.stats().total.completed == 1 and client.stats().total.released == 1)
        jobs = list(client.list(oldest_first=True))
        waiting = client.explain(jobs[1])
        workers[0].stop()

    assert [(job.lane, job.state, job.attempt) for job in jobs] == [
        ("account-7", State.RETRYING, 1),
        ("account-7", State.QUEUED, 0),
        ("account-8", State.COMPLETED, 1),
    ]
    assert waiting.holds[0].reason == "LANE_HELD"
    assert waiting.holds[0].end_time == jobs[0].next_retry_time == server.now + timedelta(seconds=20)


def test_one_job_of_each_customer_runs(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    heading = "One at a time per customer"
    server = start(heading)
    run(example_of(heading), server)
    client = server.client()
    (first,) = [job for job in client.list(states=["PROCESSING"]) if job.lane == "customer-7"]
    client.fail(first, retry_delay=30)

    assert sorted(capsys.readouterr().out.splitlines()) == [
        "customer-7 is being synchronized",
        "customer-8 is being synchronized",
    ]
    assert [job.lane for job in client.acquire(["sync_customer"], max_jobs=10)] == ["customer-7"]


def test_changes_come_one_after_the_other(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    heading = "One after the other, through retries"
    server = start(heading)
    run(example_of(heading), server)
    client = server.client()
    first, second = client.list(oldest_first=True)
    server.advance(30)
    (again,) = client.acquire(["apply_change"], max_jobs=10)
    client.fail(again, retryable=False)

    assert capsys.readouterr().out == "0 handed out\nLANE_CONCURRENCY\n"
    assert again.id == first.id
    assert [job.id for job in client.acquire(["apply_change"], max_jobs=10)] == [second.id]


def test_a_change_that_rests_holds_its_lane_until_somebody_decides() -> None:
    (changes,) = settings("One after the other, through retries").values()
    with serving(job_types={"apply_change": changes | {"auto_retry": False}}) as server:
        client = server.client()
        for name in ("first", "second"):
            client.create("apply_change", id=name, lane="order-12")
        client.fail(client.acquire(["apply_change"])[0])
        assert client.get("first").state is State.FAILED
        assert client.acquire(["apply_change"], max_jobs=10) == ()
        client.cancel("first")
        assert [job.id for job in client.acquire(["apply_change"], max_jobs=10)] == ["second"]


def test_callers_that_name_no_lane_are_treated_fairly(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    heading = "Fair without changing a caller"
    run(example_of(heading), start(heading))

    assert capsys.readouterr().out.split() == ["big", "small", "big", "big"]


def test_calls_are_handed_out_at_their_rate(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    heading = "600 calls a minute"
    server = start(heading)
    run(example_of(heading), server)
    client = server.client()
    told = capsys.readouterr().out.splitlines()

    assert told[0] == "20 may begin at once"
    assert [line.split()[0] for line in told[1:]] == ["TYPE_RATE", "TURN", "NO_WORKER"]
    server.advance(0.1)
    assert len(client.acquire(["call_model"], max_jobs=100)) == 1
    server.advance(1.9)
    assert len(client.acquire(["call_model"], max_jobs=100)) == 19
    server.advance(1)
    assert client.acquire(["call_model"], max_jobs=100) == ()
    assert client.stats().total.running == 40


def test_what_is_paused_expires_all_the_same(server: JobstateServer, client: Client) -> None:
    client.create("work", id="first", start_within=5)
    client.pause("work")
    server.advance(5)

    assert client.get("first").cancel_cause == "EXPIRED"
