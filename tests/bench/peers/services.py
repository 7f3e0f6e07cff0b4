"""What the peers run on, on loopback: Redis, PostgreSQL, their own processes, each for as long as a block lasts."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg

from ...support.postgres import own_server
from ..bench import wait
from .install import NotInstalled

_READY_WITHIN = 100
_SAMPLE_WITHIN_S = 600


class PeerFailed(Exception):
    """A peer did not do its work."""


def redis_version() -> str:
    """The version of the Redis that is installed."""
    told = subprocess.run([_redis(), "--version"], capture_output=True, text=True, check=True).stdout
    return told.split()[2].removeprefix("v=")


def _redis() -> str:
    found = shutil.which("redis-server")
    if found is None:
        raise NotInstalled("it needs Redis, which is not installed: `apt-get install redis-server`")
    return found


@cache
def postgres_version() -> str:
    """The version of the PostgreSQL that comes with the tests."""
    with postgres() as url, psycopg.connect(url) as connection:
        return str(connection.info.server_version // 10_000) + f".{connection.info.server_version % 10_000}"


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own, as it is shipped (fsync and synchronous_commit on); the value is its address."""
    with own_server() as server:
        yield server.url


def contrib_version() -> str:
    """The version of the PostgreSQL that is installed on this machine with its extensions."""
    told = subprocess.run([_contrib() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return told.split()[2]


def _contrib() -> Path:
    """The programs of the newest PostgreSQL on this machine that has all its extensions."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    extension = "/usr/share/postgresql/{}/extension/btree_gin.control"
    found = [path for path in found if Path(extension.format(path.parent.name)).exists()]
    if not found:
        raise NotInstalled("it needs a PostgreSQL with the extension btree_gin: `apt-get install postgresql`")
    return found[-1]


@contextmanager
def contrib_postgres() -> Iterator[str]:
    """The same with the extensions that PyPI's package leaves out: the one that is installed on this machine."""
    programs = _contrib()
    # A path that is short, as that of a socket has to be, and open to the user that PostgreSQL insists on.
    folder = Path(tempfile.mkdtemp(prefix="jspc"))
    user = "postgres" if os.geteuid() == 0 else None
    try:
        if user:
            shutil.chown(folder, user)
        data, log = folder / "data", folder / "log"
        made = subprocess.run(
            [programs / "initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", data],
            user=user,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise PeerFailed(f"initdb failed: {made.stderr}")
        command: list[str | Path] = [programs / "postgres", "-D", data, "-h", "", "-k", folder]
        with background(command, log, cwd=folder, user=user):
            url = f"postgresql://postgres:@/postgres?host={folder}"
            _await_postgres(url, log)
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_postgres(url: str, log: Path) -> None:
    for _ in range(_READY_WITHIN):
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
            return
        wait(0.1)
    raise PeerFailed(f"PostgreSQL did not start: {log.read_text('utf-8')[-1000:]}")


def free_port() -> int:
    """A port nobody listens on. It is below 32768, because Temporal keeps ports in columns of that size."""
    while True:
        port = random.randrange(10_000, 32_768)
        if not listens(port):
            return port


def listens(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def redis(folder: Path, *, durable: bool) -> Iterator[int]:
    """A Redis of its own, as it is shipped or with every write fsynced; the value is its port."""
    folder.mkdir()
    port = free_port()
    command = [_redis(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    if durable:
        command += ["--appendonly", "yes", "--appendfsync", "always"]
    log = folder / "redis.log"
    with background(command, log):
        for _ in range(_READY_WITHIN):
            if listens(port):
                break
            wait(0.1)
        else:
            raise PeerFailed(f"Redis did not start: {log.read_text('utf-8')[-1000:]}")
        yield port


@contextmanager
def background(
    command: Sequence[str | Path],
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            user=user,
            start_new_session=True,
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


def sample(
    command: Sequence[str | Path], jobs: int, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> float:
    """Run a peer's program and read the line of JSON that it prints: how many jobs it did per second.

    Raises:
        PeerFailed: it did not do just its work, or its own store does not show that.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=_SAMPLE_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"{' '.join(map(str, command))} did not end in {_SAMPLE_WITHIN_S} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise PeerFailed(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}"[-3000:])
    figures: dict[str, float] = json.loads(lines[-1])
    if not (figures["jobs"] == figures["stored"] == jobs and figures["failed"] == 0):
        raise PeerFailed(f"{' '.join(map(str, command))} was to do {jobs}, and said {figures}")
    return jobs / figures["seconds"]
