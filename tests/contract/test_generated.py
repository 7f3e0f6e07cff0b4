"""The committed code is what the committed protos generate."""

from __future__ import annotations

import runpy
from pathlib import Path

from .support import ROOT

COMMITTED = ROOT / "generated" / "python"


def files_below(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def test_regenerating_changes_nothing(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "generated" / "generate.py"))["generate"](tmp_path)

    fresh, committed = files_below(tmp_path), files_below(COMMITTED)
    stale = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))

    assert not stale, "run `make generate`"
