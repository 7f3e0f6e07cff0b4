"""What the image starts by default serves: its ENTRYPOINT and CMD are run with its ENV, in its working directory."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobstate_server.config import Settings

from .support import ROOT

DOCKERFILE = (ROOT / "docs" / "deploy" / "Dockerfile").read_text("utf-8")
PATIENCE_S = 60.0


def instruction(name: str) -> str:
    """What the last instruction of that name says."""
    return str(re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)[-1])


def environment() -> dict[str, str]:
    """The variables of the image, its port left to the system."""
    given = dict(word.split("=", 1) for word in shlex.split(instruction("ENV")))
    assert given["JOBSTATE_LISTEN"].endswith(f":{instruction('EXPOSE')}")
    return given | {"JOBSTATE_LISTEN": given["JOBSTATE_LISTEN"].replace(f":{instruction('EXPOSE')}", ":0")}


def user() -> int | None:
    """The image's user, None where this machine cannot run our Python as that."""
    number = int(instruction("USER"))
    try:
        subprocess.run([sys.executable, "-c", ""], user=number, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return number


def started(volume: Path, **variables: str) -> subprocess.Popen[str]:
    """The image's default command, as if its volume lay here."""
    entry, arguments = json.loads(instruction("ENTRYPOINT")), json.loads(instruction("CMD"))
    number = user()
    if number is not None:
        os.chown(volume, number, number)
    assert entry == ["jobstate-server"]
    return subprocess.Popen(
        [sys.executable, "-m", "jobstate_server", *arguments],
        cwd=volume,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **environment(), **variables},
        user=number,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """An empty volume, where nothing around it is written."""
    volume = tmp_path / "volume"
    volume.mkdir()
    return volume


def test_the_image_serves_once_it_is_allowed_to(volume: Path) -> None:
    server = started(volume, JOBSTATE_INSECURE="true")
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("jobstate: serving on 0.0.0.0:")
        assert "jobs.db" in {file.name for file in volume.iterdir()}
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0, errors
    assert list(volume.parent.iterdir()) == [volume]


def test_the_commands_that_the_page_runs_in_the_container_work_there(volume: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    lines = re.findall(r"^docker exec jobstate (.+)$", page, re.MULTILINE)
    modules = {"jobstate": "jobstate_client.cli", "jobstate-server": "jobstate_server"}
    server = started(volume, JOBSTATE_INSECURE="true")
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip().rpartition(":")[2]
        told = []
        for program, *arguments in map(shlex.split, lines):
            variables = environment() | {
                # What `docker run` sets is set for `docker exec` too.
                "JOBSTATE_INSECURE": "true",
                "JOBSTATE_SERVER": f"127.0.0.1:{port}",
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            done = subprocess.run(
                [sys.executable, "-m", modules[program], *arguments],
                cwd=volume,
                env={"PATH": os.environ["PATH"], **variables},
                user=user(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            told.append(done.stdout)
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_S)
    assert told[0] == "photo is QUEUED\n"
    assert "photo-7" in told[1]
    assert (volume / "backup.db").exists()


def test_the_image_has_the_command_line_and_stops_in_time() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (timeout,) = re.findall(r"^docker run .*--stop-timeout (\d+) ", page, re.MULTILINE)

    assert re.search(r"pip install .*'\.\[postgres,cli\]'", DOCKERFILE)
    assert int(timeout) * 1_000_000 > Settings().shutdown_grace
    assert re.findall(r"^docker build (.+)$", page, re.MULTILINE) == re.findall(r"docker build (.+)", DOCKERFILE)


def test_the_image_ends_with_what_has_to_be_allowed(volume: Path) -> None:
    server = started(volume)
    out, errors = server.communicate(timeout=PATIENCE_S)

    assert (server.returncode, out) == (1, "")
    assert "JOBSTATE_INSECURE=true" in errors
    assert len(errors.splitlines()) == 1


def test_the_image_keeps_its_store_in_its_volume_as_its_user() -> None:
    home = instruction("VOLUME")
    default = str(Settings.model_fields["store"].default)

    assert instruction("WORKDIR") == home
    assert re.search(rf"useradd .*--uid {instruction('USER')} --home-dir {home} --create-home", DOCKERFILE)
    # The default store lies beside the working directory.
    assert default.startswith("sqlite:///")
    assert not default.startswith("sqlite:////")


def test_the_page_runs_the_image_with_what_it_needs() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (line,) = re.findall(r"^docker run (.+)$", page, re.MULTILINE)

    assert f"#   docker run {line}\n" in DOCKERFILE
    port = instruction("EXPOSE")
    for needed in ("-e JOBSTATE_INSECURE=true", f"-p 127.0.0.1:{port}:{port}", f":{instruction('VOLUME')} "):
        assert needed in line
