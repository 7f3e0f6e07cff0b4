"""docs/cli.md: every command runs as written, the exit codes are the code's, and nothing is missing."""

from __future__ import annotations

import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobstate_client import Client
from jobstate_client.cli.exits import Exit
from jobstate_client.testing import JobstateServer

from .support import PROGRAM, at_terminal, environment
from .test_options import commands

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/cli.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
CAPTURES = sorted((ROOT / "docs/captures").glob("*.txt"))

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def goes_on(line: str) -> bool:
    """Whether a command runs until somebody ends it."""
    return re.match(r"jobstate (top|watch)\b", line) is not None and not re.search("--no-follow|--until-final", line)


LINES = [line for block in BLOCKS for line in block.splitlines()]
FOLLOWING = [line for line in LINES if goes_on(line)]


@pytest.mark.timeout(300)  # Each command is a new process, and there are many.
def test_every_command_of_the_page_that_ends_runs_as_written(server: JobstateServer, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "jobstate"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    variables = environment(HOME=str(tmp_path), JOBSTATE_SERVER=server.address)
    variables["PATH"] = f"{program.parent}:{Path(sys.executable).parent}:{variables['PATH']}"
    script = "set -euo pipefail\n" + "\n".join(line for line in LINES if not goes_on(line))
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )

    # A worker says what it has done.
    errors = [line for line in done.stderr.splitlines() if "jobstate: crawl_page: attempt 1 of job" not in line]
    assert (done.returncode, errors) == (0, [])
    assert "talk is PROCESSING, attempt 1\n" in done.stdout
    assert (tmp_path / "cursor.txt").read_text().strip()
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) > 5


@pytest.mark.parametrize("line", FOLLOWING)
def test_every_command_of_the_page_that_continues_runs_until_it_is_ended(
    line: str, server: JobstateServer, client: Client
) -> None:
    with at_terminal(*shlex.split(line)[1:], JOBSTATE_SERVER=server.address) as terminal:
        terminal.until(lambda text: "live" in text or "following" in text)
        client.create("clean_transcript", id="late")
        terminal.until(lambda text: "late" in text)
        terminal.process.send_signal(signal.SIGINT)

        assert terminal.end() == Exit.INTERRUPTED


def test_every_command_is_on_the_page() -> None:
    shown = "\n".join(LINES)

    assert not [name for name in commands() if f"jobstate {name}" not in shown]


def test_every_option_that_the_page_names_exists() -> None:
    options = {option for command in commands().values() for each in command.params for option in each.opts}

    assert set(re.findall(r"(--[a-z][a-z-]*)", PAGE)) <= options | {"--help", "--version"}


def test_the_table_of_exit_codes_is_the_codes() -> None:
    rows = re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)

    assert [int(row) for row in rows] == sorted(code.value for code in Exit)


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_a_capture_is_as_wide_as_it_says_and_ends_no_line_with_blanks(capture: Path) -> None:
    lines = capture.read_text("utf-8").splitlines()
    size = re.search(r"(\d+)x(\d+)", capture.stem)

    assert lines
    assert not [line for line in lines if line != line.rstrip()]
    if size:
        assert max(map(len, lines)) <= int(size[1])
        assert len(lines) <= int(size[2])
    assert f"captures/{capture.name}" in PAGE


def test_the_captures_are_what_the_views_draw_now() -> None:
    made = dict(runpy.run_path(str(ROOT / "docs/reference/captures.py"))["captures"]())

    kept = {capture.name: capture.read_text("utf-8") for capture in CAPTURES}
    assert made == kept, "run docs/reference/captures.py"


def test_the_captures_are_there() -> None:
    assert {f"captures/{capture.name}" for capture in CAPTURES} == set(re.findall(r"captures/[\w.-]+", PAGE))


def test_the_first_commands_of_the_readme_make_a_job_do_it_and_show_it(server: JobstateServer, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh\n(\.venv/bin/jobstate .*?)^```$", README, re.MULTILINE | re.DOTALL)
    *lines, last = [line.replace(".venv/bin/jobstate", shlex.join(PROGRAM)) for line in block.splitlines()]
    script = "set -euo pipefail\n" + "\n".join(lines)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment(JOBSTATE_SERVER=server.address),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert 'photo is QUEUED\n{"width": 800}\n' in done.stdout
    assert "half way" in done.stdout
    with at_terminal(*shlex.split(last)[len(PROGRAM) :], JOBSTATE_SERVER=server.address) as terminal:
        terminal.until(lambda text: "COMPLETED" in text)
        terminal.press("q")
        assert terminal.end() == Exit.DONE
