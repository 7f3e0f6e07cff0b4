"""Every program of docs/recipes.md does what it says, in its own process beside a server process."""

from __future__ import annotations

import ast
import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobstate_client import Client, NewJob, State

from ..support.ports import ReservedPort
from .processes import Child, child, server_process
from .support import PATIENCE_S, log_of, until
from .test_docs import ADDRESS, ROOT, examples, section

PAGE = (ROOT / "docs" / "recipes.md").read_text("utf-8")
HOOK = "127.0.0.1:8080"

Start = Callable[..., Child]
"""What the fixture ``start`` is."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def address(store: Path) -> Iterator[str]:
    with server_process(store) as (_, address):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def start(address: str, tmp_path: Path) -> Iterator[Start]:
    """Starts the program under a heading, in a folder of the test's own."""
    with ExitStack() as stack:

        def start(heading: str, number: int = 0, *, server: str = address, hook: str = HOOK) -> Child:
            program = examples(section(heading, PAGE))[number].replace(ADDRESS, server).replace(HOOK, hook)
            file = tmp_path / f"{heading.lower().replace(' ', '_')}_{number}.py"
            if not file.exists() or file.read_text("utf-8") != program:
                # Not written anew for one that runs at the same time: it would read half a file.
                file.write_text(program, "utf-8")
            running: AbstractContextManager[Child] = child("-u", str(file), cwd=tmp_path)
            return stack.enter_context(running)

        yield start


def said(process: Child) -> list[str]:
    """What a program says that ends by itself, and well."""
    lines, _ = process.process.communicate(timeout=PATIENCE_S)
    assert process.process.returncode == 0
    return lines.decode().splitlines()


def heard(process: Child, line: str) -> list[str]:
    """What a program says up to this line."""
    lines: list[str] = []
    while (last := process.hear()) != line:
        assert process.process.poll() is None or last, f"it ended after {lines[-3:]}"
        lines.append(last)
    return lines


def test_no_recipe_is_left_out() -> None:
    tested = {
        node.args[0].value
        for node in ast.walk(ast.parse(Path(__file__).read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "start"
        if node.args and isinstance(node.args[0], ast.Constant)
    }
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)

    assert tested == set(headings)
    assert [heading for heading in headings if len(examples(section(heading, PAGE))) > 1] == ["Many jobs at once"]


def test_waiting_shows_the_end_of_one_job_and_of_several(start: Start) -> None:
    lines = said(start("Wait for a job"))

    assert re.fullmatch(r"\S+ CANCELLED None", lines[0])
    assert [line.split()[1] for line in lines[1:]] == ["CANCELLED"] * 3


def test_the_dashboard_follows_over_a_kill_of_the_server(start: Start, store: Path) -> None:
    port = ReservedPort()
    listen = port.address
    other = store.with_name("other.db")
    with server_process(other, listen) as (server, _), Client(listen, wait_for_ready=True) as client:
        client.create_many(NewJob("default", id=f"job-{number}") for number in range(3))
        dashboard = start("A dashboard", server=listen)
        heard(dashboard, "QUEUED 3")
        job = client.start("job-0")
        heard(dashboard, "PROCESSING 1, QUEUED 2")
        server.end(signal.SIGKILL)
    with server_process(other, listen), Client(listen, wait_for_ready=True) as client:
        client.complete(job, result={"a": 1})
        lines = heard(dashboard, "COMPLETED 1, QUEUED 2")
        client.cleanup(older_than=0, force=True)
        heard(dashboard, "QUEUED 2")

    assert set(lines) <= {"PROCESSING 1, QUEUED 2"}


def test_the_worker_does_its_jobs_and_stops_when_asked_to(start: Start, client: Client, tmp_path: Path) -> None:
    (tmp_path / "episode.txt").write_text(" one \n two words \n", "utf-8")
    worker = start("A worker")
    client.create("clean_transcript", id="good", source_id="episode.txt")
    client.create("clean_transcript", id="bad", source_id="nothing.txt")

    good, bad = (client.wait(job_id, timeout=PATIENCE_S) for job_id in ("good", "bad"))
    worker.end()

    assert (good.state, good.result, good.result_count) == (State.COMPLETED, {"file": "episode.clean"}, 2)
    assert good.estimated_tokens == 3
    assert (tmp_path / "episode.clean").read_text("utf-8") == "one\ntwo words"
    assert bad.last_error is not None
    assert (bad.state, bad.last_error.code) == (State.PERMANENTLY_FAILED, "NO_FILE")
    assert worker.process.returncode == 0


def test_the_pipeline_of_the_three_job_types_goes_on_to_its_notice_and_exists_once(
    start: Start, client: Client
) -> None:
    worker = start("A pipeline")
    said_of_both = [worker.hear(), worker.hear()]
    good, gone = (client.wait(job_id, timeout=PATIENCE_S) for job_id in ("episode-12:notify", "episode-gone:notify"))
    worker.end()

    assert sorted(said_of_both) == ["episode-12: 10 of 10 posts, cost 0.020", "episode-gone: 0 of 10 posts, cost 0.000"]
    assert good.result == {"posts": [f"{number}. In short: jobs can wait for jobs" for number in range(1, 11)]}
    assert (gone.state, gone.result) == (State.COMPLETED, {"posts": []})
    states = Counter((job.source_id, job.state) for job in client.list())
    assert states == {
        ("episode-12", State.COMPLETED): 14,
        ("episode-gone", State.PERMANENTLY_FAILED): 2,
        ("episode-gone", State.CANCELLED): 11,
        ("episode-gone", State.COMPLETED): 1,
    }
    episodes = ["episode-12", "episode-gone"]
    log = log_of(client, source_ids=episodes)

    again = start("A pipeline")
    client.wait(client.create("clean_transcript"), timeout=PATIENCE_S)
    again.end()
    assert log_of(client, source_ids=episodes) == log


def test_a_look_shows_what_has_ended_since_the_last_one(start: Start, client: Client) -> None:
    def end(job_id: str) -> None:
        client.complete(client.start(client.create("default", id=job_id)))

    def look() -> list[str]:
        return said(start("From polling to watching"))

    end("first")
    end("second")
    assert look() == ["first COMPLETED", "second COMPLETED"]
    assert look() == []
    end("third")
    client.create("default", id="unfinished")
    assert look() == ["third COMPLETED"]


def test_a_job_is_created_once_whoever_asks(start: Start, client: Client) -> None:
    programs = [start("Create once") for _ in range(3)]

    assert [said(program) for program in programs] == [["clean:episode-12 True"]] * 3
    assert [job.id for job in client.list()] == ["clean:episode-12"]
    assert len(log_of(client)) == 1


def test_batches_are_made_once_though_their_program_runs_again(start: Start, client: Client) -> None:
    lines = ["1000 up to posts:999", "1000 up to posts:1999", "500 up to posts:2499"]

    assert said(start("Many jobs at once")) == lines
    assert said(start("Many jobs at once")) == lines
    assert len(log_of(client)) == 2_500


def test_streamed_jobs_are_made_once_though_their_program_runs_again(start: Start, client: Client) -> None:
    assert said(start("Many jobs at once", 1)) == ["2000 are there"]
    assert said(start("Many jobs at once", 1)) == ["2000 are there"]
    assert len(log_of(client)) == 2_000


def test_all_that_failed_with_one_code_is_done_once_more(start: Start, client: Client) -> None:
    for number in range(13):
        job = client.start(client.create("clean_transcript", id=f"job-{number}"))
        client.fail(job, "BAD_MODEL" if number else "OTHER", retryable=False)

    counted, first, recreated = said(start("Once more"))

    assert counted == "12 would be recreated"
    assert first == " ".join(["ten first:", *(f"job-{number}" for number in range(1, 11))])
    assert recreated == "12 recreated, {} skipped"
    assert "job-0" not in {job.recreated_from for job in client.list(states=["QUEUED"])}


class Receiver:
    """A webhook that notes what it gets, and has room for so much."""

    def __init__(self) -> None:
        self.sequences: list[int] = []
        self.room = 1_000
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if len(receiver.sequences) >= receiver.room:
                    self.send_error(503)
                    return
                receiver.sequences.append(told["sequence"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_every_event_is_forwarded_though_forwarder_and_receiver_fail(
    start: Start, client: Client, receiver: Receiver
) -> None:
    client.create_many(NewJob("default", id=f"job-{number}") for number in range(20))
    # The last event of a response is the one that the cursor moves with.
    receiver.room = 19
    first = start("Forward events", hook=receiver.address)
    assert "503" in first.hear()
    first.end(signal.SIGKILL)
    receiver.room = 1_000
    for number in range(20):
        client.start(f"job-{number}")
    log = log_of(client)
    second = start("Forward events", hook=receiver.address)
    until(lambda: log[-1] in receiver.sequences)
    second.end(signal.SIGKILL)

    assert sorted(set(receiver.sequences)) == log
    newest, taken = 0, []
    for sequence in receiver.sequences:
        if sequence > newest:
            newest = sequence
            taken.append(sequence)
    assert taken == log


def test_a_forwarder_that_runs_again_continues_where_it_was(
    start: Start, client: Client, receiver: Receiver, tmp_path: Path
) -> None:
    kept, cursor = tmp_path / "forwarded.cursor", ""
    for turn in range(3):
        client.create("default", id=f"job-{turn}")
        forwarder = start("Forward events", hook=receiver.address)
        until(lambda before=cursor: kept.exists() and kept.read_text("ascii") != before)  # type: ignore[misc]
        cursor = kept.read_text("ascii")
        forwarder.end(signal.SIGKILL)

    assert receiver.sequences == log_of(client)


def test_cost_is_summed_up_by_job_type(start: Start) -> None:
    assert said(start("Cost per job type")) == [
        "extract_insights: 2 done, 3100 tokens, 0.062, 0 retries",
        "in all: 0.062",
    ]
