"""The distribution is called jobstate-grpc everywhere: on PyPI, the name jobstate belongs to another project."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from .support import CLIENT, ROOT, SERVER, TESTS, relative

NAME = "jobstate-grpc"

FOLDERS = (SERVER, CLIENT, TESTS, ROOT / "docs", ROOT / "generated", ROOT / "protos", ROOT / ".ci")
SUFFIXES = {"", ".json", ".md", ".mjs", ".mod", ".proto", ".py", ".sh", ".sql", ".toml", ".ts", ".txt", ".yaml", ".yml"}

NOT_THE_NAME = r"(?<![\w.-])jobstate(?![\w.-])"
"""The bare word. With a dash, dot or underscore behind it, it is the name of something else."""

AS_A_DISTRIBUTION = re.compile(
    # pip install jobstate, with options and other packages before it
    rf"\bpip install(?:\s+[-\w.\[\],=<>'\"]+)*?\s+['\"]?{NOT_THE_NAME}"
    # jobstate[server], but not an index into something of that name
    rf"|{NOT_THE_NAME}\[[a-z]+(?:,[a-z]+)*\]"
    # jobstate==1.0, jobstate>=1.0, jobstate @ file:///...
    rf"|{NOT_THE_NAME}\s*(?:[=~!]=|[<>]=?)\s*\d"
    rf"|{NOT_THE_NAME} @ "
    # importlib.metadata, and click's way to it
    rf"|\b(?:version|distribution|metadata|package_name=)\(?['\"]{NOT_THE_NAME}['\"]"
)


def texts() -> Iterator[Path]:
    """Every text file of the repository that may name the distribution, except this one."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in SUFFIXES)
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*")):
            skipped = {"node_modules", "__pycache__", "figures.json"} & set(path.parts)
            if path.is_file() and path.suffix in SUFFIXES and not skipped and path != Path(__file__):
                yield path


def test_no_text_calls_the_distribution_by_the_name_of_another_project() -> None:
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if AS_A_DISTRIBUTION.search(line)
    ]

    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "pip install jobstate",
        "pip install -U --quiet 'jobstate'",
        "pip install grpcio==1.85 jobstate",
        'postgres = ["jobstate[server]"]',
        "install it with: pip install 'jobstate[cli,server]'",
        "jobstate==0.1.0",
        "jobstate >= 1",
        'f"jobstate @ {wheel.as_uri()}"',
        'version("jobstate")',
        '@click.version_option(package_name="jobstate")',
    ],
)
def test_the_bare_name_is_found_wherever_it_stands_for_the_distribution(line: str) -> None:
    assert AS_A_DISTRIBUTION.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "pip install jobstate-grpc",
        "pip install 'jobstate-grpc[server]'",
        "`pip install '.[cli]'` in this repository installs `jobstate`.",
        "jobstate-grpc==0.1.0",
        "import jobstate_client, jobstate.v1.job_service_pb2",
        "database jobstate = 5",
        "jobstate watch --follow",
    ],
)
def test_commands_packages_and_the_distributions_own_name_are_no_finding(line: str) -> None:
    assert not AS_A_DISTRIBUTION.search(line)


def test_what_is_installed_here_has_the_name_and_both_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    installed = distribution(NAME)

    assert project["name"] == installed.name == NAME
    assert {script.name for script in installed.entry_points.select(group="console_scripts")} == {
        "jobstate",
        "jobstate-server",
    }
