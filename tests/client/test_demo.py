"""The demo of `make demo` plays its scene on a real server and checks the outcome itself."""

from __future__ import annotations

import subprocess
import sys

from .support import PATIENCE_S


def test_the_demo_ends_as_expected_and_says_so() -> None:
    command = [sys.executable, "-m", "jobstate_client.demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "processing-job" not in done.stdout
    assert "permanently-failed  posts-5" in done.stdout
    assert "As expected: 7 jobs, 183 events" in done.stdout
