"""Shell completion: states and options without a server, job types and ids with one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from jobstate_client import Client, GroupPolicy
from jobstate_client.cli.commands.completion import SHELLS
from jobstate_client.testing import JobstateServer

from .support import PROGRAM, at_terminal, environment, run_alone

PATIENTLY = ["--timeout", "30s"]
"""A machine with much to do may take longer than a person would wait."""


def completed(server: str, *words: str) -> list[str]:
    """What bash is offered for the last of these words."""
    env = {
        "_JOBSTATE_COMPLETE": "bash_complete",
        "COMP_LINE": " ".join(["jobstate", *PATIENTLY, *words]),
        "JOBSTATE_SERVER": server,
    }
    return [line.partition(",")[2] for line in run_alone(env=env).out.splitlines() if line]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_is_printed(shell: str) -> None:
    result = run_alone("completion", shell)

    assert result.code == 0
    assert "_JOBSTATE_COMPLETE" in result.out


def test_another_shell_is_wrong_usage() -> None:
    assert run_alone("completion", "tcsh").code == 2


def test_commands_options_and_states_are_completed_without_a_server() -> None:
    assert sorted(completed("127.0.0.1:1", "maintenance", "check")) == ["check-health", "check-stale"]
    assert "--state" in completed("127.0.0.1:1", "list", "--st")
    assert completed("127.0.0.1:1", "list", "--state", "PERM") in (["PERMANENTLY_FAILED"], ["permanently_failed"])
    assert completed("127.0.0.1:1", "--timeout", "100ms", "get", "fir") == []


def test_job_types_are_those_of_the_settings_and_of_the_jobs(server: JobstateServer, client: Client) -> None:
    client.create("render_video")

    assert completed(server.address, "create", "re") == ["render_video", "resting"]
    assert completed(server.address, "list", "--job-type", "rest") == ["resting"]


def test_what_dispatch_asks_for_is_completed(server: JobstateServer, client: Client) -> None:
    client.create("render_video", id="first")

    assert completed(server.address, "acquire", "resting", "ren") == ["render_video"]
    assert completed(server.address, "release", "fi") == completed(server.address, "explain", "fi") == ["first"]
    assert [each.upper() for each in completed(server.address, "create", "--priority", "U")] == ["URGENT"]
    assert [each.upper() for each in completed(server.address, "create", "--unique-until", "S")] == ["STARTED"]


def test_the_filters_of_a_listing_are_completed(server: JobstateServer, client: Client) -> None:
    with client.group("import_day", id="friday") as day:
        day.create("fetch", id="fresh", source_id="feed-1", lane="frequent")
        day.create("fetch", id="other", source_id="feed 2")
    client.create("fetch", id="member", group_id=client.create("import_day", id="four", group=GroupPolicy()))

    def offered(*words: str) -> list[str]:
        return sorted(completed(server.address, *words, "f"))

    assert offered("list", "--group-id") == offered("close-group") == ["four", "friday"]
    assert offered("create", "fetch", "--group-id") == ["four", "friday"]
    assert offered("list", "--needed-by") == offered("list", "--needs") == ["four", "fresh", "friday"]
    assert offered("list", "--source-id") == offered("watch", "--source-id") == ["feed-1"]
    assert offered("create", "fetch", "--lane") == ["frequent"]
    assert completed(server.address, "list", "--wait-reason", "NE") in (["NEEDS"], ["needs"])


def test_job_ids_are_those_of_the_newest_jobs(server: JobstateServer, client: Client) -> None:
    for job_id in ("first", "fifth", "second"):
        client.create("resting", id=job_id)

    assert sorted(completed(server.address, "get", "fi")) == ["fifth", "first"]
    assert completed("127.0.0.1:1", "--server", server.address, "watch", "first", "se") == ["second"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("get fi", "get first"),
        ("get posts:", "get posts:2026:11"),
        ("get posts:2", "get posts:2026:11"),
        ("get posts:2026:1", "get posts:2026:11"),
        ("list --state=PERM", "list --state=PERMANENTLY_FAILED"),
        ("watch first pos", "watch first posts:2026:11"),
    ],
)
def test_bash_itself_completes_with_the_script(
    typed: str, line: str, server: JobstateServer, client: Client, tmp_path: Path
) -> None:
    for job_id in ("first", "posts:2026:11", "other:2026"):
        client.create("resting", id=job_id)
    program = tmp_path / "jobstate"
    program.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    start = tmp_path / "bashrc"
    start.write_text("source <(jobstate completion bash)\nPS1='ready> '\n")
    path = f"{tmp_path}:{environment()['PATH']}"
    arguments = ("bash", "--noprofile", "--rcfile", str(start), "-i")
    with at_terminal(program=arguments, PATH=path, JOBSTATE_SERVER=server.address) as terminal:
        terminal.until(lambda text: "ready> " in text)
        # What Tab leaves on the line is told by echo.
        terminal.press(f"jobstate --timeout 30s {typed}\t\x01echo it is: \n")
        told = terminal.until(lambda text: re.search(r"[\r\n]it is: .*[\r\n]", text))

    # States are taken in any case, and offered in one or the other.
    assert f"it is: jobstate --timeout 30s {line}".lower() in told.lower()
