"""People read in a few words that a job is delayed, ready, given back, or was not begun in time."""

from __future__ import annotations

from datetime import timedelta

from jobstate_client import Client, Job
from jobstate_client.cli.terminal.styles import EVENT_STYLES
from jobstate_client.core.states import EventType
from jobstate_client.testing import JobstateServer
from jobstate_client.views.summaries import event_name, event_summary, job_note, waiting_time


def told(client: Client) -> list[tuple[str, str]]:
    """The names and summaries of all events."""
    return [(event_name(each), event_summary(each)) for each in client.watch(start="earliest", follow=False)]


def test_a_delayed_job_is_told_as_delayed_until_it_is_ready(client: Client, server: JobstateServer) -> None:
    job = client.create("work", source_id="episode-12", priority="HIGH", delay=60)
    server.advance(20)
    before = job_note(client.get(job), server.now), waiting_time(client.get(job), server.now)
    server.advance(40)
    server.advance(5)
    after = client.get(job)

    assert before == ("priority HIGH, delayed for 40s", "")
    assert (job_note(after, server.now), waiting_time(after, server.now)) == (
        "priority HIGH, waits for a worker, 5s so far",
        "5s",
    )
    assert told(client) == [
        ("queued", "source episode-12, priority HIGH, delayed for 1m"),
        ("ready", "waits for a worker"),
    ]


def test_the_wait_of_a_delayed_job_counts_from_the_end_of_its_delay(client: Client, server: JobstateServer) -> None:
    client.create("work", delay=60)
    server.advance(60)
    server.advance(5)
    (job,) = client.acquire(["work"])

    assert job.waited == timedelta(seconds=5)


def test_an_attempt_that_was_given_back_is_not_told_as_a_retry(client: Client, server: JobstateServer) -> None:
    client.create("work", id="first")

    def release(delay: float | None) -> Job:
        (job,) = client.acquire(["work"])
        return client.release(job, "429", delay=delay)

    delayed = release(20)
    server.advance(20)
    release(None)
    failed = client.fail(client.start("first"), "NO_FILE", retry_delay=20)

    assert job_note(delayed, server.now - timedelta(seconds=20)) == "given back, again in 20s"
    assert job_note(failed, server.now) == "retry 1 of 3 in 20s, NO_FILE"
    assert [summary for name, summary in told(client) if name == "released"] == [
        "attempt 1 given back, 429, again in 20s",
        "attempt 2 given back, 429",
    ]


def test_a_job_that_nobody_began_in_time_says_so(client: Client, server: JobstateServer) -> None:
    job = client.create("work", start_within=5)
    server.advance(5)

    assert job_note(client.get(job)) == "nobody began it in time"
    assert told(client)[-1] == ("cancelled", "nobody began it in time")


def test_what_releases_and_readies_a_job_has_a_colour() -> None:
    assert {EventType.READY, EventType.RELEASED} <= set(EVENT_STYLES)
