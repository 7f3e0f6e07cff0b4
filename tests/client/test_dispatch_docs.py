"""Every Python example of the pages on dispatch runs as written, but for the address."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobstate_client import Client, State, Worker
from jobstate_client.testing import JobstateServer

from .processes import server_process
from .support import in_thread
from .test_docs import ROOT, examples, run, section, workers

__all__ = ["workers"]

DISPATCH, OTHERS, BESIDE = (
    (ROOT / "docs" / name).read_text("utf-8") for name in ("dispatch.md", "from-other-queues.md", "beside-a-queue.md")
)


def test_the_worker_completes_and_releases(server: JobstateServer, client: Client, workers: list[Worker]) -> None:
    example, _ = examples(section("A worker in Python", DISPATCH))
    good, busy = (client.create("clean_transcript", source_id=source) for source in ("episode-12", "episode-429"))

    with in_thread(lambda: run(example, server)), client.watch(job_ids=[good, busy], start="earliest") as watch:
        waited = {good.id: State.COMPLETED, busy.id: State.RETRYING}
        while waited:
            event = next(watch)
            if event.job.state == waited.get(event.job.id):
                del waited[event.job.id]
        workers[0].stop()

    assert client.get(busy).retry_count == 0


def test_the_calls_by_hand_explain_acquire_and_release(
    server: JobstateServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    _, example = examples(section("A worker in Python", DISPATCH))

    run(example, server)

    assert capsys.readouterr().out.startswith("TIME ")
    (released,) = client.list(states=["RETRYING"])
    assert (released.progress, released.retry_count) == (50, 0)


def test_the_worker_that_the_others_are_compared_with_runs(
    server: JobstateServer, client: Client, workers: list[Worker]
) -> None:
    (example,) = examples(section("Here", OTHERS))
    busy, gone = (client.create("clean_transcript", source_id=source) for source in ("episode-busy", "episode-gone"))

    with (
        in_thread(lambda: run(example, server)),
        client.watch(start="earliest", job_types=["clean_transcript"]) as watch,
    ):
        waited = {("episode-12", State.COMPLETED), (busy.source_id, State.RETRYING)}
        waited.add((gone.source_id, State.PERMANENTLY_FAILED))
        while waited:
            event = next(watch)
            waited.discard((event.job.source_id, event.job.state))
        workers[0].stop()

    (delayed,) = client.list(source_id="episode-13")
    assert delayed.state is State.QUEUED


def test_a_queue_that_retries_makes_a_job_of_each_delivery(server: JobstateServer, client: Client) -> None:
    (example,) = examples(section("The queue retries", BESIDE))

    run(example, server)

    states = {job.id: job.state for job in client.list(source_id="episode-12")}
    assert states == {"message-7:1": State.PERMANENTLY_FAILED, "message-7:2": State.COMPLETED}


def test_a_queue_that_only_carries_ids_leads_to_one_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the machine's time, for the wait for the retry has to pass."""
    (example,) = examples(section("jobstate retries", BESIDE))

    with server_process(tmp_path / "jobs.db") as (_, address):
        run(example, address)

    assert capsys.readouterr().out.splitlines()[-1] == "COMPLETED after 2 attempts"
