"""Java programs with the stubs that generated/java builds: the example, the README's lines, what a client meets."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from xml.etree import ElementTree

import pytest

from .facts import ADDRESS, Facts, Programs, copy_of, section
from .support import ROOT, InteropServer, Probe, run_probe, story_transcript
from .toolchains import need
from .worker_facts import LeaseFacts, WorkerFacts

# The first build of a machine downloads Maven's plugins and the libraries.
pytestmark = pytest.mark.timeout(400)

STUBS, EXAMPLE, PROBE = "generated/java", "client/examples/java", "tests/interop/java/Probe.java"
JAVA = "Java 17 or newer and Maven, on Debian: apt-get install default-jdk-headless maven"

LIBRARIES = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy-dependencies"
"""Brings what an example needs into its target/dependency, so that it runs without the seconds that Maven takes."""

SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Options of a Java that runs for seconds. To optimize for hours, as is the default, is more than half of a build."""


class Maven:
    """Maven with a repository apart from the user's own, in pytest's cache."""

    def __init__(self, program: Path, cache: Path) -> None:
        self._program = program
        self._repository = cache / "repository"
        # Once a session has filled the repository, there is hope that the next needs no network.
        self._filled = cache / "filled"

    def run(self, command: str, cwd: Path) -> str:
        """What a command line that begins with ``mvn`` prints; it has to end well."""
        program, *words = shlex.split(command)
        assert program == "mvn", command
        finished = self._mvn("--offline", *words, cwd=cwd) if self._filled.exists() else None
        if finished is None or finished.returncode != 0:
            finished = self._mvn(*words, cwd=cwd)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        # Maven sets the terminal's colours back, even where there is none.
        return re.sub(r"\x1b\[[0-9;]*m", "", finished.stdout)

    def _mvn(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, "--batch-mode", "--no-transfer-progress", *words],
            cwd=cwd,
            env=os.environ | {"MAVEN_OPTS": " ".join((*SHORT_LIVED, f"-Dmaven.repo.local={self._repository}"))},
            capture_output=True,
            text=True,
            check=False,
        )

    def close(self) -> None:
        """End the session."""
        self._filled.touch()


@pytest.fixture(scope="session")
def maven(pytestconfig: pytest.Config) -> Iterator[Maven]:
    """The mvn command."""
    need("javac", install=JAVA)
    program = need("mvn", install=JAVA)
    assert pytestconfig.cache is not None, "Maven's repository is kept in pytest's cache"
    maven = Maven(program, pytestconfig.cache.mkdir("maven"))
    yield maven
    maven.close()


@pytest.fixture(scope="session")
def workspace(maven: Maven, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with the probe in it, beside a copy of the stubs that both use, which are installed."""
    root = copy_of(["protos", STUBS, EXAMPLE], tmp_path_factory.mktemp("java") / "jobstate")
    maven.run(f"mvn -q -f {STUBS} install", root)
    return root


@pytest.fixture(scope="session")
def programs(maven: Maven, workspace: Path) -> Programs:
    """The programs, compiled with every warning of the compiler an error."""
    example = workspace / EXAMPLE
    (example / "src/main/java/Probe.java").write_bytes((ROOT / PROBE).read_bytes())
    maven.run(f"mvn -q compile {LIBRARIES}", example)
    target = example / "target"
    java = need("java", install=JAVA)
    command: list[str | Path] = [
        java,
        *SHORT_LIVED,
        "-classpath",
        f"{target / 'classes'}:{target / 'dependency'}/*",
    ]
    story, probe, worker = ([*command, name] for name in ("Story", "Probe", "Worker"))
    return Programs(story, probe, worker, stopped=128 + SIGTERM)


class TestJava(Facts):
    """The facts that every language shares."""

    def test_grpc_itself_refuses_what_is_over_twice_the_limit(self, server: InteropServer, programs: Programs) -> None:
        assert run_probe([*programs.probe, "large", server.address, "17"]) == ["ResourceExhausted"]

    def test_the_story_is_the_same_when_the_server_restarts_in_its_midst(
        self, server: InteropServer, programs: Programs
    ) -> None:
        with Probe([*programs.story, server.address]) as story:
            assert story.line().startswith("created ")
            server.restart()

            assert story.rest() == story_transcript(server.address)


class TestWorker(WorkerFacts):
    """The facts of the workers of all languages."""


class TestLease(LeaseFacts):
    """The facts of their leases."""


def test_the_story_runs_by_the_commands_at_its_head(maven: Maven, workspace: Path, server: InteropServer) -> None:
    head = (ROOT / EXAMPLE / "src/main/java/Story.java").read_text("utf-8").partition("\nimport ")[0]
    install, run = re.findall(r"^//     (mvn .*)$", head, re.MULTILINE)

    told = maven.run(run.replace(ADDRESS, server.address), workspace / EXAMPLE)

    # Which the workspace has done, from the root.
    assert install == f"mvn -q -f {os.path.relpath(STUBS, EXAMPLE)} install"
    assert ADDRESS in run
    assert told.splitlines() == story_transcript(server.address)


def test_the_program_of_the_readme_runs_in_an_empty_directory(
    maven: Maven, workspace: Path, server: InteropServer
) -> None:
    readme = section("Java", "java")
    app = workspace.parent / "app"
    (app / "src/main/java").mkdir(parents=True)
    (app / "src/main/java/Main.java").write_text(readme.program.replace(ADDRESS, server.address), "utf-8")
    (app / "pom.xml").write_text(section("Java", "xml").program, "utf-8")

    told = [maven.run(line, app) for line in readme.shell.splitlines()]

    assert told[-1].split() == ["JOB_STATE_COMPLETED"]


@pytest.mark.parametrize("folder", [STUBS, EXAMPLE])
def test_the_versions_are_that_of_the_project(folder: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

    assert versions_of_ours((ROOT / folder / "pom.xml").read_text("utf-8")) == {version}
    assert versions_of_ours(section("Java", "xml").program) == {version}


def versions_of_ours(pom: str) -> set[str | None]:
    """The versions that a pom gives to what is of jobstate: itself, or what it depends on."""
    plain = ElementTree.fromstring(re.sub(r' xmlns="[^"]*"', "", pom))
    parts = [plain, *plain.iter("dependency")]
    return {part.findtext("version") for part in parts if "jobstate" in (part.findtext("groupId") or "")}
