"""Python, as it is installed far from this repository: the README as written, the story, a watch over restarts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..contract.test_wheel import Environment, build
from .facts import ADDRESS
from .support import ROOT, InteropServer, Probe, run_probe, story_transcript, watch_through_restarts

# Filling an empty environment from a registry can take a minute or more.
pytestmark = pytest.mark.timeout(400)

STORY = ROOT / "client" / "examples" / "python" / "story.py"
WATCH = ROOT / "tests" / "interop" / "python" / "watch.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with nothing but our wheel and what it needs, in an empty directory."""
    wheel = build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))
    return Environment(tmp_path_factory.mktemp("installed"), f"jobstate-grpc @ {wheel.as_uri()}")


def python(program: Path, installed: Environment, server: InteropServer) -> list[str | Path]:
    """The command that runs a program, which sees nothing but what is installed."""
    return [installed.bin / "python", "-I", program, server.address]


def test_the_readmes_ten_lines_run_from_an_empty_directory(installed: Environment, server: InteropServer) -> None:
    readme = (ROOT / "README.md").read_text("utf-8").partition("\n### Python\n")[2].partition("\n##")[0]
    (program,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (installed.home / "main.py").write_text(program.replace(ADDRESS, server.address), encoding="utf-8")

    ran = installed.run("python", "main.py")

    assert ADDRESS in program
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "processing-job.queued 0",
        "processing-job.started 0",
        "processing-job.progress 50",
        "processing-job.completed 100",
    ]


def test_the_story_is_the_same_in_python(installed: Environment, server: InteropServer) -> None:
    told = run_probe(python(STORY, installed, server), cwd=installed.home)

    assert told == story_transcript(server.address)


def test_the_story_is_the_same_when_the_server_restarts_in_its_midst(
    installed: Environment, server: InteropServer
) -> None:
    with Probe(python(STORY, installed, server), cwd=installed.home) as story:
        assert story.line().startswith("created ")
        server.restart()

        assert story.rest() == story_transcript(server.address)


def test_the_synchronous_watcher_misses_nothing_over_restarts(server: InteropServer, installed: Environment) -> None:
    command = python(WATCH, installed, server)
    told, logged = watch_through_restarts(server, command, cwd=installed.home)

    assert told == logged
