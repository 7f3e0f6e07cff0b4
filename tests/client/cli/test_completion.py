"""What the shell completes: states and options without a server, job types and ids with one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from jobstate_client import Client
from jobstate_client.cli.completing import SHELLS
from jobstate_client.testing import JobstateServer

from .support import PROGRAM, environment, run_alone

PATIENTLY = ["--timeout", "30s"]
"""A machine with much to do may take longer than a person would wait."""


def completed(server: str, *words: str) -> list[str]:
    """What bash is offered for the last of these words."""
    env = {
        "_JOBSTATE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["jobstate", *PATIENTLY, *words]),
        "COMP_CWORD": str(len(PATIENTLY) + len(words)),
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


def test_job_ids_are_those_of_the_newest_jobs(server: JobstateServer, client: Client) -> None:
    for job_id in ("first", "fifth", "second"):
        client.create("resting", id=job_id)

    assert sorted(completed(server.address, "get", "fi")) == ["fifth", "first"]
    assert completed("127.0.0.1:1", "--server", server.address, "watch", "first", "se") == ["second"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
def test_bash_itself_completes_with_the_script(server: JobstateServer, client: Client, tmp_path: Path) -> None:
    client.create("resting", id="first")
    program = tmp_path / "jobstate"
    program.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    script = (
        "source <(jobstate completion bash)\nCOMP_WORDS=(jobstate --timeout 30s get fi)\nCOMP_CWORD=4\n"
        '_jobstate_completion jobstate\necho "${COMPREPLY[@]}"\n'
    )
    path = f"{tmp_path}:{environment()['PATH']}"
    told = subprocess.run(
        ["bash", "-c", script],
        env=environment(PATH=path, JOBSTATE_SERVER=server.address),
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.stdout.split() == ["first"], told.stderr
