"""Where the peers are installed, in versions named here, apart from everything of ours. Each is installed once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ..bench import SCRATCH

HOME = SCRATCH / "peers"
PROGRAMS = Path(__file__).with_name("programs")

PYTHON_PACKAGES = {"celery[redis,gevent]": "5.7.0", "procrastinate": "3.10.0"}
NODE_PACKAGES = {"bullmq": "6.7.0", "graphile-worker": "0.18.0", "ioredis": "6.0.0", "node": "22.23.3", "pg": "8.23.1"}
RIVER = {
    "github.com/riverqueue/river": "v0.51.2",
    "github.com/riverqueue/river/riverdriver/riverpgxv5": "v0.51.2",
    "github.com/jackc/pgx/v5": "v5.13.0",
}
TEMPORAL_SERVER = {"go.temporal.io/server": "v1.32.2"}
TEMPORAL = {"go.temporal.io/sdk": "v1.51.0"}


class NotInstalled(Exception):
    """A peer cannot be had here. The message says what is missing."""


def _run(command: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a step of an installation; what it printed is told when it fails."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        shown = (done.stdout + done.stderr).strip()[-1000:]
        raise NotInstalled(f"`{' '.join(map(str, command))}` failed: {shown}")


def _is_new(home: Path, contents: str) -> bool:
    """Whether a folder does not hold just this yet. Anything else that it holds is removed."""
    mark = home / ".installed"
    if mark.exists() and mark.read_text("utf-8") == contents:
        return False
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    return True


def _is_there(home: Path, contents: str) -> None:
    (home / ".installed").write_text(contents, encoding="utf-8")


def _needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise NotInstalled(f"it needs `{program}`, which is not installed")
    return found


@cache
def python() -> Path:
    """The programs of a virtual environment with the peers that are Python packages."""
    home = HOME / "python"
    packages = [f"{name}=={version}" for name, version in PYTHON_PACKAGES.items()]
    if _is_new(home, repr(packages)):
        _run([sys.executable, "-m", "venv", home], HOME)
        _run([home / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], HOME)
        _is_there(home, repr(packages))
    return home / "bin"


@cache
def node() -> Path:
    """A folder with the peers that are npm packages, their programs, and the Node.js that runs them."""
    npm = _needed("npm")
    home = HOME / "node"
    packages = [f"{name}@{version}" for name, version in NODE_PACKAGES.items()]
    if _is_new(home, repr(packages)):
        (home / "package.json").write_text('{"private": true}', encoding="utf-8")
        _run([npm, "install", "--silent", "--no-fund", "--no-audit", *packages], home)
        _is_there(home, repr(packages))
    # Node looks for packages beside the program, so the programs have to be beside them.
    for program in PROGRAMS.glob("*.mjs"):
        shutil.copyfile(program, home / program.name)
    return home


def node_program(name: str) -> list[str | Path]:
    """The command that runs a program on the installed Node.js."""
    home = node()
    return [home / "node_modules" / "node" / "bin" / "node", home / f"{name}.mjs"]


def go_build(name: str, modules: Mapping[str, str], targets: Sequence[str]) -> Path:
    """Build Go programs, in a module of their own that requires just these versions; returns their folder.

    Args:
        name: of the module, and of the program in it, if there is one.
        targets: packages to build: ``.`` is the program of that name.
    """
    go = _needed("go")
    home = HOME / name
    program = PROGRAMS / f"{name}.go"
    source = program.read_text("utf-8") if program.exists() else ""
    contents = repr((dict(modules), list(targets), source))
    if _is_new(home, contents):
        if source:
            shutil.copyfile(program, home / program.name)
        requires = "".join(f"require {module} {version}\n" for module, version in modules.items())
        (home / "go.mod").write_text(f"module bench/{name}\n\ngo 1.25\n\n{requires}", encoding="utf-8")
        env = {
            # A module may want a newer toolchain than the one here. -modcacherw: else the folder cannot be removed.
            "GOTOOLCHAIN": "auto",
            "GOFLAGS": f"{os.environ.get('GOFLAGS', '')} -mod=mod -modcacherw".strip(),
            "GOMODCACHE": str(HOME / "go" / "mod"),
            "GOCACHE": str(HOME / "go" / "build"),
        }
        for target in targets:
            _run([go, "build", "-o", "bin/", target], home, env)
        _is_there(home, contents)
    return home / "bin"


def river() -> Path:
    """The program that uses River."""
    return go_build("river_work", RIVER, ["."]) / "river_work"


def temporal_server() -> Path:
    """The programs of Temporal's server: ``server``, and ``sql``, which makes its tables."""
    targets = ["go.temporal.io/server/cmd/server", "go.temporal.io/server/cmd/tools/sql"]
    return go_build("temporal_server", TEMPORAL_SERVER, targets)


def temporal() -> Path:
    """The program that uses Temporal."""
    return go_build("temporal_work", TEMPORAL, ["."]) / "temporal_work"
