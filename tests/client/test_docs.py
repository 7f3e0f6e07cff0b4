"""Every Python example of docs/clients.md and README runs as written, but for the address; the tables are complete."""

from __future__ import annotations

import inspect
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobstate_client import AsyncClient, Client, EventType, NewJob, Run, State, Worker, errors
from jobstate_client.testing import JobstateServer

from .support import in_thread

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/clients.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "127.0.0.1:50051"


def examples(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(heading: str, text: str = PAGE) -> str:
    """What stands under a heading."""
    return text.partition(f"# {heading}\n")[2].partition("\n## ")[0]


def run(example: str, server: JobstateServer | str) -> dict[str, Any]:
    """Run an example against this server, or the one at this address."""
    names: dict[str, Any] = {}
    address = server if isinstance(server, str) else server.address
    exec(compile(example.replace(ADDRESS, address), "example", "exec"), names)  # noqa: S102
    return names


ENDLESS = examples(section("Worker"))[0]
"""It works until it is stopped."""

OTHERS = [example for example in examples(PAGE) if example != ENDLESS and "jobstate_server" not in example]


@pytest.mark.parametrize("example", OTHERS, ids=range(len(OTHERS)))
def test_an_example_runs(example: str, server: JobstateServer) -> None:
    run(example, server)


def test_the_ten_lines_show_the_life_of_a_job(server: JobstateServer, capsys: pytest.CaptureFixture[str]) -> None:
    for example in examples(section("Ten lines")):
        run(example, server)

        told = capsys.readouterr().out.splitlines()
        assert told[0] == "processing-job.queued 0"
        assert told[-1] == "processing-job.completed 100"


def test_the_ten_lines_are_no_more() -> None:
    first = examples(section("Ten lines"))[0]

    assert len([line for line in first.splitlines() if line]) <= 10


def test_the_example_of_the_readme_shows_the_life_of_a_job(
    server: JobstateServer, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = [example for example in examples(README) if "jobstate_client" in example]
    run(example, server)

    told = capsys.readouterr().out
    assert len([line for line in example.splitlines() if line]) <= 10
    assert "processing-job.completed 100" in told


async def test_with_asyncio_those_calls_are_awaited_that_the_page_says(server: JobstateServer) -> None:
    awaited, _, rest = PAGE.partition("\nWith asyncio, write")[2].partition("\n\n")[0].partition("Not awaited are")
    calls = re.findall(r"`client\.(\w+)`", rest)
    of_a_run = re.findall(r"`run\.(\w+)`", rest)
    async with server.async_client() as client:
        worker = client.worker(idle, job_types=["resting"])
        listings = [client.list(), client.lanes("resting")]
        made: list[Any] = [client.run(NewJob("resting")), client.watch(), client.updates(), *listings, worker]
        others = public(AsyncClient) - set(calls)
        job = await client.create("resting")

        assert set(calls) == {"run", "watch", "list", "lanes", "updates", "worker"}
        assert not [each for each in made if inspect.isawaitable(each)]
        async with client.run(job) as run:
            assert not [name for name in of_a_run if inspect.iscoroutinefunction(getattr(run, name))]
    assert {"create", "get", "complete", "wait", "close"} <= others
    assert "worker.run()" in awaited


async def idle(run: Run) -> None:
    """Do nothing."""


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    """The workers that are made, on a machine whose signals are left alone."""
    made: list[Worker] = []
    make = Worker.__init__

    def note(self: Worker, *arguments: Any) -> None:
        make(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Worker, "__init__", note)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    yield made
    for worker in made:
        worker.stop()


def test_the_worker_does_what_waits(server: JobstateServer, client: Client, workers: list[Worker]) -> None:
    job = client.create("clean_transcript")
    with in_thread(lambda: run(ENDLESS, server)), client.watch(job_ids=[job], start="earliest") as watch:
        ended = next(event for event in watch if event.type is EventType.COMPLETED)
        workers[0].stop()

    assert (ended.job.state, ended.job.result) == (State.COMPLETED, {"text": "…"})


def test_the_example_of_a_test_passes(server: JobstateServer) -> None:
    plugin, test = examples(section("Tests of your own"))

    assert run(plugin, server)["pytest_plugins"] == ["jobstate_client.testing"]
    run(test, server)["test_a_failed_job_is_retried"](server)


def test_an_error_has_the_attributes_that_the_page_names() -> None:
    text = section("Errors").partition("is an error class")[2].partition("\n\n")[0]
    of_two, of_all = (re.findall(r"`([a-z]\w+)`", part) for part in text.split("Every error has"))

    assert of_two
    assert all(hasattr(errors.AttemptSuperseded("it is so"), attribute) for attribute in of_two)
    assert of_all
    assert all(hasattr(errors.JobStateError("it is so"), attribute) for attribute in of_all)
