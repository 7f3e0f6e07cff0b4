"""What is built from this repository is whole, the same by every way, and works far from it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from .support import CLIENT, ROOT, SERVER

# Building takes seconds; filling an empty environment from a registry can take a minute or more.
pytestmark = pytest.mark.timeout(400)

ANSWER_S = 10.0
STOP_S = 30.0

Contents = dict[str, bytes]


def build(kind: str, source: Path, destination: Path) -> Path:
    """Build one archive with the build backend of this environment, so that no registry is needed."""
    options = ["--no-isolation", f"--{kind}", "--outdir", str(destination), str(source)]
    finished = subprocess.run([sys.executable, "-m", "build", *options], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (built,) = destination.iterdir()
    return built


def contents(wheel: Path) -> Contents:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel_from_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sdist = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel-from-sdist"))


def test_the_wheel_is_the_same_from_the_tree_and_from_the_sdist(wheel: Path, wheel_from_sdist: Path) -> None:
    ours, theirs = contents(wheel), contents(wheel_from_sdist)

    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_the_wheel_holds_every_file_of_our_packages(wheel: Path) -> None:
    roots = {SERVER: "jobstate_server", CLIENT: "jobstate_client", ROOT / "generated" / "python": "jobstate"}
    expected = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for root, package in roots.items()
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    protos = {path.relative_to(ROOT / "protos").as_posix(): path for path in (ROOT / "protos").rglob("*.proto")}
    expected |= {name: path.read_bytes() for name, path in protos.items()}

    found = {name: content for name, content in contents(wheel).items() if ".dist-info/" not in name}

    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.parametrize(
    "kind",
    ["jobstate/v1/*.proto", "jobstate_server/store/migrations/*.sql", "*/py.typed", "*.dist-info/licenses/LICENSE"],
)
def test_the_wheel_ships_more_than_code(wheel: Path, kind: str) -> None:
    assert [name for name in contents(wheel) if Path(name).match(kind)]


class Environment:
    """An empty virtual environment, in a folder that knows nothing of the repository."""

    def __init__(self, home: Path, requirement: str) -> None:
        self.home = home
        venv.create(home / "venv", with_pip=False, symlinks=True)
        self.bin = home / "venv" / "bin"
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet", requirement]
        finished = subprocess.run(pip, cwd=home, env=self.variables, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr

    @property
    def variables(self) -> dict[str, str]:
        """What processes see: no path back into the repository, no settings of ours."""
        return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JOBSTATE_"))}

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / command, *arguments],
            cwd=self.home,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("bare"), f"jobstate-grpc @ {wheel.as_uri()}")


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("full"), f"jobstate-grpc[server] @ {wheel.as_uri()}")


@pytest.fixture
def serving(full: Environment) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and its address."""
    command = [str(full.bin / "jobstate-server"), "serve", "--listen", "127.0.0.1:0"]
    command += ["--store", f"sqlite:///{full.home / 'jobs.db'}"]
    log = full.home / "server.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=full.home, env=full.variables, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            said = next(
                (found for line in process.stdout if (found := re.match(r"jobstate: serving on (\S+)$", line))), None
            )
            assert said, log.read_text()
            yield process, said[1]
        finally:
            process.kill()


def test_a_client_needs_no_server_packages(bare: Environment) -> None:
    imported = bare.run("python", "-c", "import jobstate_client, jobstate.v1.job_service_pb2_grpc")

    assert imported.returncode == 0, imported.stderr


def test_a_server_without_its_packages_says_what_to_install(bare: Environment) -> None:
    started = bare.run("jobstate-server", "serve")

    assert started.returncode != 0
    assert "pip install 'jobstate-grpc[server]'" in started.stderr
    assert "Traceback" not in started.stderr


def test_an_installed_server_is_imported_from_where_it_is_installed(full: Environment) -> None:
    asked = full.run("python", "-c", "import jobstate_server; print(jobstate_server.__file__)")

    assert asked.returncode == 0, asked.stderr
    assert Path(asked.stdout.strip()).is_relative_to(full.home)


def test_an_installed_server_answers_a_health_check_and_stops_when_asked(
    serving: tuple[subprocess.Popen[str], str],
) -> None:
    process, address = serving

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        answer = check(HealthCheckRequest(), timeout=ANSWER_S)
    process.send_signal(signal.SIGTERM)

    assert answer.status == HealthCheckResponse.SERVING
    assert process.wait(STOP_S) == 0
