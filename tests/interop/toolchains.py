"""The compilers and runtimes of other languages, which this machine may or may not have.

On a user's machine a test whose toolchain is absent is skipped by name. On the build machine, where CI is set, it
fails: there a skip would pass for a result.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def need(tool: str, *, install: str) -> Path:
    """The path of ``tool``; the test is skipped where there is none, and fails on the build machine.

    ``install`` says what to install, in the words that the skipped test's reason gives.
    """
    # Where Debian keeps what serves; it is on root's path alone.
    found = shutil.which(tool) or shutil.which(tool, path="/usr/sbin")
    if found is not None:
        return Path(found)
    reason = f"{tool} is not installed ({install})"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and the build machine skips nothing")
    pytest.skip(reason)
