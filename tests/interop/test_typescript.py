"""TypeScript programs with the committed package: the example, the README's lines, and what such a client meets."""

from __future__ import annotations

from pathlib import Path

import pytest

from .facts import Command, Facts, Programs, copy_of, run, run_as_the_readme_says, section
from .pipeline_facts import PipelineFacts
from .support import ROOT, InteropServer
from .toolchains import need
from .worker_facts import LeaseFacts, WorkerFacts

pytestmark = pytest.mark.timeout(300)

PACKAGE, EXAMPLE, PROBE = "generated/typescript", "client/examples/typescript", "tests/interop/typescript/probe.ts"
NODE = "Node 20 or newer, see https://nodejs.org"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with the probe in it, beside a copy of the package that both use; what they need is installed."""
    npm = need("npm", install=NODE)
    root = copy_of([PACKAGE, EXAMPLE], tmp_path_factory.mktemp("typescript"))
    (root / EXAMPLE / "src" / "probe.ts").write_bytes((ROOT / PROBE).read_bytes())
    run(npm, "ci", "--no-audit", "--no-fund", cwd=root / EXAMPLE)
    return root


@pytest.fixture(scope="session")
def programs(workspace: Path) -> Programs:
    """The programs, compiled under strict: a mistake of type fails every test."""
    node = need("node", install=NODE)
    example = workspace / EXAMPLE
    run("npm", "run", "build", cwd=example)
    story, probe, worker = ([node, example / "dist" / f"{name}.js"] for name in ("story", "probe", "worker"))
    return Programs(story, probe, worker)


@pytest.fixture
def pipeline(workspace: Path, programs: Programs) -> Command:
    """The program, which is compiled with the others."""
    return [need("node", install=NODE), workspace / EXAMPLE / "dist" / "pipeline.js"]


class TestTypeScript(Facts):
    """The facts that every language shares."""


class TestWorker(WorkerFacts):
    """The facts of the workers of all languages."""


class TestPipeline(PipelineFacts):
    """The facts of jobs that wait for jobs."""


class TestLease(LeaseFacts):
    """The facts of their leases."""


def test_the_program_of_the_readme_runs_in_an_empty_directory(server: InteropServer, tmp_path: Path) -> None:
    need("npm", install=NODE)

    told = run_as_the_readme_says(section("TypeScript", "typescript"), "app.mts", tmp_path, server.address)

    assert told == "COMPLETED"


def test_the_programs_have_no_mistake_of_type(workspace: Path) -> None:
    """The options of the example's tsconfig.json are strict, also of what the package declares."""
    (workspace / EXAMPLE / "src" / "readme.mts").write_text(section("TypeScript", "typescript").program, "utf-8")

    run("npx", "tsc", "--noEmit", cwd=workspace / EXAMPLE)
