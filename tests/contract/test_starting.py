"""The tests pass however they are started: from a script's background, without a terminal, in any zone and locale."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DELICATE = (
    "tests/client/cli/test_top.py::test_ctrl_c_leaves_top_in_order",
    "tests/integration/test_process.py::test_a_signal_ends_the_process_in_order",
    "tests/client/test_interrupted_runs.py::test_a_second_ctrl_c_while_a_run_leaves_gives_up",
    "tests/client/cli/test_text.py",
)
"""Signals to processes, a terminal, the standard streams, times as text."""


@pytest.mark.parametrize("stdin", ["< /dev/null", "<&-"], ids=["empty", "closed"])
def test_the_tests_of_signals_and_terminals_pass_in_the_background(stdin: str, tmp_path: Path) -> None:
    # Of a shell without job control, "&" is what makes its children ignore SIGINT and SIGQUIT.
    command = shlex.join([sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *DELICATE])
    log = tmp_path / "log"
    script = f"trap '' HUP; {command} {stdin} > {shlex.quote(str(log))} 2>&1 & wait $!"
    odd = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run(["sh", "-c", script], cwd=ROOT, env={**os.environ, **odd}, check=False)

    assert done.returncode == 0, log.read_text("utf-8")
