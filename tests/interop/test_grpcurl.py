"""Every line of the pages for grpcurl runs as written, in the order of the page, and answers what the page promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from jobstate_client import Client
from jobstate_server.maintenance.registry import Schedules

from .facts import ADDRESS
from .support import ROOT, InteropServer, Probe
from .toolchains import need

# The first session builds grpcurl from its source.
pytestmark = pytest.mark.timeout(400)

VERSION = "v1.9.4"
PACKAGE = "github.com/fullstorydev/grpcurl/cmd/grpcurl"

REFUSED = 64
"""grpcurl ends with this and the number of the code."""

Message = dict[str, Any]
Ask = Callable[[str], list[Message]]


@pytest.fixture(scope="session")
def grpcurl(pytestconfig: pytest.Config) -> Path:
    """The one on the PATH, or else one built for these tests and kept in pytest's cache."""
    if found := shutil.which("grpcurl"):
        return Path(found)
    go = need("go", install="Go 1.25 or newer, see https://go.dev/dl")
    assert pytestconfig.cache is not None, "grpcurl is kept in pytest's cache"
    folder = pytestconfig.cache.mkdir(f"grpcurl-{VERSION}")
    if not (folder / "grpcurl").exists():
        subprocess.run([go, "install", f"{PACKAGE}@{VERSION}"], env=os.environ | {"GOBIN": str(folder)}, check=True)
    return folder / "grpcurl"


class Shell:
    """Runs the lines of a page against a server."""

    def __init__(self, grpcurl: Path, address: str) -> None:
        self._address = address
        self._env = os.environ | {"PATH": f"{grpcurl.parent}:{os.environ['PATH']}"}

    def command(self, line: str) -> list[str | Path]:
        """The line as a command, with the server's address for the page's, and this environment for .venv."""
        assert ADDRESS in line
        here = line.replace(ADDRESS, self._address).replace(".venv/bin", sysconfig.get_path("scripts"))
        return ["bash", "-c", here]

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(line), cwd=ROOT, env=self._env, capture_output=True, text=True, check=False)

    def ask(self, line: str) -> list[Message]:
        """The messages that a line prints, which has to end well."""
        finished = self.run(line)
        assert finished.returncode == 0, f"{line}\n{finished.stderr}"
        return list(messages(finished.stdout))

    def follow(self, line: str) -> Probe:
        """A line that goes on by itself."""
        return Probe(self.command(line.replace("grpcurl", "exec grpcurl", 1)), cwd=ROOT, env=self._env)


@pytest.fixture
def shell(grpcurl: Path, server: InteropServer) -> Shell:
    return Shell(grpcurl, server.address)


def messages(text: str) -> Iterator[Message]:
    """The JSON objects that follow one another in a text."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        message, end = decoder.raw_decode(rest)
        yield message
        rest = rest[end:].strip()


def lines_of(page: str) -> list[str]:
    """The lines of a page that make calls, be it in a block or in the text, in their order."""
    text = (ROOT / page).read_text("utf-8")
    return [
        block or inline
        for block, inline in re.findall(r"^((?:\S*/buf curl|grpcurl) .+)$|`(grpcurl [^`]+)`", text, re.M)
    ]


def rpc_of(line: str) -> str:
    """The last word, without the service."""
    return re.split(r"[/.]", line)[-1]


def messages_until_synced(probe: Probe) -> list[Message]:
    """What a watch tells up to SYNCED."""
    while "WATCH_RESPONSE_KIND_SYNCED" not in probe.line():
        pass
    while probe.line() != "}":
        pass
    return list(messages("\n".join(probe.told)))


def test_the_lines_of_the_readme_tell_the_life_of_a_job(shell: Shell) -> None:
    lines = lines_of("README.md")
    create, acquire, progress, complete, watch, stats, describe, get = lines

    assert [rpc_of(line) for line in lines[:6]] == [
        "Create",
        "Acquire",
        "UpdateProgress",
        "Complete",
        "WatchEvents",
        "GetStats",
    ]
    assert shell.ask(create)[0]["job"]["state"] == "JOB_STATE_QUEUED"
    assert shell.ask(acquire)[0]["jobs"][0]["attempt"] == 1
    assert shell.ask(progress)[0]["job"]["progress_message"] == "half way"
    assert shell.ask(complete)[0]["job"]["result_count"] == "3"
    told = [
        event["name"].removeprefix("processing-job.")
        for answer in shell.ask(watch)
        for event in answer.get("events", [])
    ]
    assert told == ["queued", "started", "progress", "completed"]
    assert shell.ask(stats)[0]["total"]["completed"] == "1"
    assert "rpc WatchEvents (" in shell.run(describe).stdout
    assert shell.ask(get)[0]["job"]["state"] == "JOB_STATE_COMPLETED"


def test_the_tasks_can_be_tried_and_looked_at_as_the_page_says(shell: Shell) -> None:
    check_stale, retry_failed, cleanup, tasks = lines_of("docs/operations.md")[:4]

    for line in (check_stale, retry_failed, cleanup):
        assert '"dry_run": true' in line
        assert len(shell.ask(line)) == 1
    assert {task["name"].replace("-", "_") for task in shell.ask(tasks)[0]["tasks"]} == set(Schedules.model_fields)


def test_a_cleanup_of_what_is_young_has_to_be_forced(shell: Shell) -> None:
    cleanup = lines_of("docs/operations.md")[2].replace("604800s", "600s")
    forced = cleanup.replace('"dry_run"', '"force": true, "dry_run"')

    refused = shell.run(cleanup)

    assert refused.returncode == REFUSED + grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "older_than" in refused.stderr
    assert len(shell.ask(forced)) == 1


def test_health_is_told_of_the_server_and_of_the_jobs(shell: Shell) -> None:
    server, jobs, report = lines_of("docs/operations.md")[4:7]

    assert shell.ask(server) == [{"status": "SERVING"}]
    assert shell.ask(jobs) == [{"status": "SERVING"}]
    assert len(shell.ask(report)) == 1


def test_jobs_can_be_looked_at_and_dealt_with_as_the_page_says(shell: Shell, client: Client) -> None:
    list_failed, get, retry, cancel = lines_of("docs/operations.md")[7:]
    client.fail(client.start(client.create("default", id="first")), "BROKEN", retry_delay=timedelta(minutes=10))
    client.fail(client.start(client.create("default", id="second")), "BROKEN", retryable=False)
    client.create("default", id="third")

    assert [job["id"] for job in shell.ask(list_failed)[0]["jobs"]] == ["second"]
    assert [attempt["error"]["code"] for attempt in shell.ask(get)[0]["attempts"]] == ["BROKEN"]
    assert shell.ask(retry)[0]["job"]["attempt"] == 2
    assert shell.ask(cancel)[0]["job"]["cancel_reason"] == "no longer needed"
    for line in (retry, cancel):
        refused = shell.run(line)
        assert refused.returncode == REFUSED + grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert "TRANSITION_NOT_ALLOWED" in refused.stderr


def test_the_page_on_watching_shows_what_it_says(shell: Shell, client: Client) -> None:
    everything, narrowed, history, copy, until_final = lines_of("docs/watch.md")
    job = client.start(client.create("clean_transcript", id="first"))

    for line in (everything, narrowed):
        with shell.follow(line) as watch:
            assert [answer["kind"] for answer in messages_until_synced(watch)] == ["WATCH_RESPONSE_KIND_SYNCED"]
    assert [len(answer.get("events", [])) for answer in shell.ask(history)] == [2, 0]
    with shell.follow(copy) as watch:
        snapshot, _ = messages_until_synced(watch)
        assert [job["id"] for job in snapshot["jobs"]] == ["first"]
    with shell.follow(until_final) as watch:
        messages_until_synced(watch)
        client.complete(job)
        assert '"name": "processing-job.completed"' in "\n".join(watch.rest())


def test_the_page_on_dispatch_hands_out_releases_and_explains(shell: Shell) -> None:
    lines = iter(lines_of("docs/dispatch.md"))

    first, second, same = (shell.ask(next(lines))[0] for _ in range(3))
    assert (first["job"]["priority"], first["job"]["wait_reason"]) == ("PRIORITY_HIGH", "WAIT_REASON_TURN")
    assert second["job"]["wait_reason"] == "WAIT_REASON_TIME"
    assert (same["job"]["id"], same["existing"]) == ("second", True)
    (taken,) = shell.ask(next(lines))[0]["jobs"]
    assert (taken["id"], taken["attempt"], taken["lease"]) == ("first", 1, "60s")
    assert shell.ask(next(lines))[0]["job"]["version"] == taken["version"]
    released = shell.ask(next(lines))[0]["job"]
    assert (released["state"], released.get("retry_count", 0)) == ("JOB_STATE_RETRYING", 0)
    assert [reasons(shell.ask(next(lines))[0]) for _ in range(2)] == [["TIME"], ["TIME"]]
    assert shell.ask(next(lines))[0]["job"]["wait_reason"] == "WAIT_REASON_TURN"
    assert reasons(shell.ask(next(lines))[0]) == ["NO_WORKER"]
    total = shell.ask(next(lines))[0]["total"]
    assert {count["reason"] for count in total["waiting"]} == {"WAIT_REASON_TURN", "WAIT_REASON_TIME"}
    assert total["released"] == "1"
    assert next(lines, None) is None


def test_the_page_on_fairness_holds_pauses_and_explains(shell: Shell) -> None:
    lines = iter(lines_of("docs/fairness.md"))

    first, second = (shell.ask(next(lines))[0]["job"] for _ in range(2))
    assert (first["lane"], second.get("lane", "")) == ("tenant-7", "")
    assert [lane.get("lane", "") for lane in shell.ask(next(lines))[0]["lanes"]] == ["", "tenant-7"]
    (taken,) = shell.ask(next(lines))[0]["jobs"]
    assert taken["id"] == "second"
    assert shell.ask(next(lines))[0]["job"]["state"] == "JOB_STATE_RETRYING"
    assert shell.ask(next(lines))[0]["ready"] == "1"
    assert reasons(shell.ask(next(lines))[0]) == ["LANE_PAUSED", "NO_WORKER"]
    unpaused, paused, again = (shell.ask(next(lines))[0] for _ in range(3))
    assert (unpaused["ready"], paused["ready"], again["ready"]) == ("1", "1", "1")
    assert next(lines, None) is None


def test_the_page_on_groups_makes_jobs_that_wait_and_a_group(shell: Shell) -> None:
    lines = iter(lines_of("docs/groups.md"))

    fetch, clean, notify = (shell.ask(next(lines))[0]["job"] for _ in range(3))
    assert [job["wait_reason"].removeprefix("WAIT_REASON_") for job in (fetch, clean, notify)] == [
        "TURN",
        "NEEDS",
        "NEEDS",
    ]
    (hold,) = shell.ask(next(lines))[0]["holds"]
    assert (hold["reason"], hold["subject"]) == ("HOLD_REASON_NEED", "fetch-1")
    assert [job["id"] for job in shell.ask(next(lines))[0]["jobs"]] == ["fetch-1"]
    (told,) = shell.ask(next(lines))[0]["needs"]
    assert (told["need"]["job_id"], told.get("met", False)) == ("fetch-1", False)
    day = shell.ask(next(lines))[0]["job"]
    assert (day["state"], day["group"]["tolerated_failures"]) == ("JOB_STATE_PROCESSING", "10")
    assert len(shell.ask(next(lines))[0]["jobs"]) == 2
    assert shell.ask(next(lines))[0]["job"]["wait_reason"] == "WAIT_REASON_NEEDS"
    assert shell.ask(next(lines))[0]["job"]["members"]["closed"]
    assert len(shell.ask(next(lines))[0]["jobs"]) == 2
    assert shell.ask(next(lines))[0]["job"]["members"]["total"] == "2"
    assert shell.ask(next(lines))[0]["job"]["members"]["stopping"]
    assert shell.ask(next(lines))[0]["job"]["id"] == "crawl"
    assert shell.ask(next(lines))[0]["jobs"][0]["attempt"] == 1
    assert shell.ask(next(lines))[0]["job"]["id"] == "crawl-2"
    assert next(lines, None) is None


def reasons(explained: Message) -> list[str]:
    """Why a job is waiting."""
    return [hold["reason"].removeprefix("HOLD_REASON_") for hold in explained["holds"]]
