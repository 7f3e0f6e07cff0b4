"""What holds in every language whose programs speak the same lines: its test module builds them and inherits the facts.

The programs are the story and the worker, examples for users, and a probe, which is made for these tests alone. They
are built once in a session, in a copy of the folders that they are made of, so that nothing appears in the repository.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

from jobstate_client import Client

from .proxies import LossyUpstream, proxy
from .support import (
    END_OF_WATCH,
    ROOT,
    InteropServer,
    Load,
    Probe,
    end_the_watch,
    events_of_the_log,
    run_probe,
    story_transcript,
    told_events,
    watch_through_restarts,
)

ADDRESS = "127.0.0.1:50051"
"""Where the pages think that the server is."""

SOME_EVENTS = 20
"""After so many a watch under load has had several responses, and is in the middle."""

Command = Sequence[str | Path]


@dataclass(frozen=True)
class Programs:
    """What was built of a language."""

    story: Command
    probe: Command
    worker: Command
    stopped: int = 0
    """The exit code of a worker that SIGTERM stopped."""


@dataclass(frozen=True)
class Section:
    """A section of the README."""

    shell: str
    """Its commands."""
    program: str


def section(heading: str, language: str) -> Section:
    """The section under this heading, which has one block of commands and one in its language."""
    text = (ROOT / "README.md").read_text("utf-8").partition(f"\n### {heading}\n")[2].partition("\n##")[0]
    blocks: dict[str, list[str]] = {}
    for block in text.split("```")[1::2]:
        kind, _, body = block.partition("\n")
        blocks.setdefault(kind, []).append(body)
    (shell,), (program,) = blocks["sh"], blocks[language]
    return Section(shell, program)


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints, which has to end well."""
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{command}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def copy_of(folders: Sequence[str], destination: Path) -> Path:
    """A copy of these folders of the repository, which lie to each other as they do there."""
    for folder in folders:
        unwanted = shutil.ignore_patterns("node_modules", "dist", "target", "__pycache__")
        shutil.copytree(ROOT / folder, destination / folder, ignore=unwanted)
    return destination


def run_as_the_readme_says(section: Section, file: str, directory: Path, address: str) -> str:
    """The last line that the commands of a section print, in a directory with nothing but its program.

    The repository is where the section wants it, without what a developer may have left in it.
    """
    app = directory / "app"
    app.mkdir()
    copy_of(["generated"], directory / "jobstate")
    (app / file).write_text(section.program.replace(ADDRESS, address), "utf-8")
    return run("bash", "-euo", "pipefail", "-c", section.shell, cwd=app).splitlines()[-1]


class Facts:
    """The facts. The class of a language's test module inherits them; its module has the fixture ``programs``.

    It also allows each test minutes: restarts take as long as a busy machine takes to start a server.
    """

    def test_the_story_tells_the_life_of_a_job(self, server: InteropServer, programs: Programs) -> None:
        told = run_probe([*programs.story, server.address])

        assert told == story_transcript(server.address)

    def test_the_story_goes_on_when_the_server_restarts_in_its_middle(
        self, server: InteropServer, programs: Programs
    ) -> None:
        for _ in (SIGTERM, SIGKILL):
            with Probe([*programs.story, server.address]) as story:
                created = story.line()
                server.restart()

                *told, events = story.rest()
            # A report whose answer was lost is made again, and is an event again.
            names = dict.fromkeys(events.split(", "))
            assert [*told, ", ".join(names)] == story_transcript(server.address, created)

    def test_a_watcher_misses_nothing_through_restarts_under_load(
        self, server: InteropServer, programs: Programs
    ) -> None:
        told, logged = watch_through_restarts(server, [*programs.probe, "watch", server.address])

        assert told == logged

    def test_a_cursor_that_was_kept_leads_another_process_on(
        self, server: InteropServer, programs: Programs, tmp_path: Path
    ) -> None:
        watch = [*programs.probe, "watch", server.address, tmp_path / "cursor"]
        with Load(server.address) as load:
            with Probe(watch) as probe:
                probe.until_past(SOME_EVENTS)
                probe.close_stdin()
                first = told_events(probe.rest())
            with Probe(watch) as probe:
                probe.line()
                load.stop()
                end_the_watch(server.address)
                second = told_events(probe.rest())

        assert first
        assert second[-1][1:] == ("processing-job.cancelled", END_OF_WATCH)
        assert first + second == events_of_the_log(server.address)

    def test_the_details_of_an_error_are_read(self, server: InteropServer, programs: Programs) -> None:
        assert run_probe([*programs.probe, "errors", server.address]) == [
            "InvalidArgument jobstate INVALID_FIELD field=job_type field=max_retries",
            "NotFound jobstate JOB_NOT_FOUND job_id=nobody resource=nobody",
        ]

    def test_a_watcher_is_told_that_the_server_stops_and_when_to_come_back(
        self, server: InteropServer, programs: Programs
    ) -> None:
        with Probe([*programs.probe, "drained", server.address]) as probe:
            assert probe.line() == "SYNCED"
            assert server.end(SIGTERM) == 0

            assert probe.rest() == ["SYNCED", "DRAINING", "Unavailable jobstate DRAINING retry_delay=true"]

    def test_a_deadline_ends_a_call_and_its_repeat_changes_nothing_twice(
        self, server: InteropServer, programs: Programs
    ) -> None:
        with Probe([*programs.probe, "deadline", server.address]) as probe:
            assert probe.line() == "connected"
            server.pause()
            probe.say()
            assert probe.line() == "DeadlineExceeded"
            server.resume()
            probe.say()

            assert probe.line() == "created once"
        assert [event[1:] for event in events_of_the_log(server.address)] == [("processing-job.queued", "once")]

    def test_a_message_that_is_too_large_is_refused(self, server: InteropServer, programs: Programs) -> None:
        assert run_probe([*programs.probe, "large", server.address, "9"]) == [
            "ResourceExhausted jobstate MESSAGE_TOO_LARGE size_max=8388608"
        ]

    def test_an_update_that_no_server_can_parse_harms_none_of_its_batch(
        self, server: InteropServer, programs: Programs
    ) -> None:
        assert run_probe([*programs.probe, "poison", server.address]) == ["82", "40 culprit INVALID_FIELD", "1"]

    def test_labels_find_jobs_and_their_events(self, server: InteropServer, programs: Programs) -> None:
        assert run_probe([*programs.probe, "labels", server.address]) == [
            "first third",
            "third",
            "processing-job.queued third acme",
            "processing-job.cancelled third acme",
            "InvalidArgument jobstate INVALID_FIELD field=labels",
        ]

    def test_a_server_that_is_dead_behind_nginx_is_noticed_by_its_heartbeats(
        self, server: InteropServer, programs: Programs, tmp_path: Path
    ) -> None:
        upstream = LossyUpstream(server.address)
        try:
            with (
                proxy("nginx", upstream.address, tmp_path) as address,
                Client(server.address) as client,
                Probe([*programs.probe, "heartbeats", address]) as probe,
            ):
                client.create("default", id="before")
                assert probe.line().endswith("processing-job.queued before")
                upstream.lose()
                client.create("default", id="after")

                assert probe.line().endswith("processing-job.queued after")
        finally:
            upstream.close()
