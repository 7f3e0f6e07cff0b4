"""Go programs with the committed module: the example, the README's lines, and what a Go client meets."""

from __future__ import annotations

from pathlib import Path

import pytest

from .facts import Command, Facts, Programs, copy_of, run, run_as_the_readme_says, section
from .pipeline_facts import PipelineFacts
from .support import ROOT, InteropServer, run_probe
from .toolchains import need
from .worker_facts import LeaseFacts, WorkerFacts

# Compiling gRPC from nothing takes half a minute, and so may downloading it.
pytestmark = pytest.mark.timeout(300)

MODULE, EXAMPLE, PROBE = "generated/go", "client/examples/go", "tests/interop/go"
GO = "Go 1.25 or newer, see https://go.dev/dl"


@pytest.fixture(scope="session")
def go() -> Path:
    """The go command."""
    return need("go", install=GO)


@pytest.fixture(scope="session")
def workspace(go: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with the probe in it, beside a copy of the module that both use."""
    root = copy_of([MODULE, EXAMPLE], tmp_path_factory.mktemp("go"))
    (root / EXAMPLE / "probe").mkdir()
    (root / EXAMPLE / "probe" / "main.go").write_bytes((ROOT / PROBE / "main.go").read_bytes())
    return root


@pytest.fixture(scope="session")
def programs(go: Path, workspace: Path) -> Programs:
    example = workspace / EXAMPLE
    run(go, "build", "-o", "bin/story", ".", cwd=example)
    run(go, "build", "-o", "bin/probe", "./probe", cwd=example)
    run(go, "build", "-o", "bin/worker", "./worker", cwd=example)
    run(go, "build", "-o", "bin/pipeline", "./pipeline", cwd=example)
    story, probe, worker = ([example / "bin" / name] for name in ("story", "probe", "worker"))
    return Programs(story, probe, worker)


@pytest.fixture
def pipeline(workspace: Path, programs: Programs) -> Command:
    """The program, which is built with the others."""
    return [workspace / EXAMPLE / "bin" / "pipeline"]


class TestGo(Facts):
    """The facts that every language shares."""

    def test_grpc_itself_refuses_what_is_over_twice_the_limit(self, server: InteropServer, programs: Programs) -> None:
        assert run_probe([*programs.probe, "large", server.address, "17"]) == ["ResourceExhausted"]


class TestWorker(WorkerFacts):
    """The facts of the workers of all languages."""


class TestPipeline(PipelineFacts):
    """The facts of jobs that wait for jobs."""


class TestLease(LeaseFacts):
    """The facts of their leases."""


def test_go_vet_finds_nothing(go: Path, workspace: Path) -> None:
    for module in (MODULE, EXAMPLE):
        run(go, "vet", "./...", cwd=workspace / module)


def test_the_code_is_formatted() -> None:
    gofmt = need("gofmt", install=GO)

    assert run(gofmt, "-l", MODULE, EXAMPLE, PROBE, cwd=ROOT) == ""


@pytest.mark.parametrize("module", [MODULE, EXAMPLE])
def test_the_lines_of_a_go_mod_are_those_that_are_needed(go: Path, workspace: Path, module: str) -> None:
    assert run(go, "mod", "tidy", "-diff", cwd=workspace / module) == ""


def test_the_program_of_the_readme_runs_in_an_empty_directory(server: InteropServer, tmp_path: Path) -> None:
    need("go", install=GO)

    told = run_as_the_readme_says(section("Go", "go"), "main.go", tmp_path, server.address)

    assert told == "JOB_STATE_COMPLETED"
