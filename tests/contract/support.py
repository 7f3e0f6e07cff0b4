"""Where things are in this repository, and how its tools are run."""

from __future__ import annotations

import ast
import os
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server"
CLIENT = ROOT / "client"
TESTS = ROOT / "tests"


def modules_below(*folders: Path) -> list[Path]:
    """Every Python file below ``folders``, in a stable order."""
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def relative(path: Path) -> str:
    """How a test names a file: by its path in the repository."""
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def calls_in(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call in a Python file, with the last part of the name that is called."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    yield node, name


def run_tool(
    name: str, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment at the root of the repository."""
    return subprocess.run(
        [Path(sysconfig.get_path("scripts")) / name, *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
