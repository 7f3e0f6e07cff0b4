"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from . import h2load
from .processes import ROOT

_PACKAGES = ("grpcio", "protobuf", "uvloop", "peewee")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _memory() -> str:
    kib = int(Path("/proc/meminfo").read_text("ascii").split()[1])
    return f"{kib / 2**20:.0f} GiB of memory"


def _file_system(folder: Path) -> str:
    told = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(folder)], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown file system"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def commit() -> str:
    """The commit that is checked out, and whether the server or the bench has been changed since."""
    changed = _git("status", "--porcelain", "--", "server", "protos", "generated", "tests/bench")
    return _git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def described(folder: Path) -> list[str]:
    """The machine and the versions, one item each."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return [
        f"{_cpu()}, {os.cpu_count()} cores, {_memory()}, {platform.system()} {platform.release()}",
        f"stores on {_file_system(folder)}",
        f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, {packages}",
        f"load from {h2load.version()} where a row says so, else from `tests/bench/load.py`",
    ]


def load_average() -> float:
    """How busy the machine is, by the last minute."""
    return os.getloadavg()[0]
