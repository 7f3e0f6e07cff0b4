"""What applies to every test, however pytest was started."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# Tests start hundreds of servers. Where the environment keeps Python from writing bytecode, as many images do, each of
# them compiles the whole server again, and each process of pytest all tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

LONGEST_FIRST = ("interop", "robustness", "contract", "integration", "client", "store", "unit")
"""The folders of tests, in the order of how long a file of theirs may take. A long file that began last would keep one
process busy while the others have nothing left to do."""

STDERR = pytest.StashKey[int]()
"""Where the stacks of a process that hangs are printed. pytest replaces descriptor 2 while it captures output."""

IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""The signals that background commands of a shell ignore, and SIGHUP under `nohup`. Processes inherit this, also over
exec."""


def pytest_configure(config: pytest.Config) -> None:
    """Give tests, and the processes they start, the signals and descriptors that they have at a terminal."""
    for number in IGNORED:
        if signal.getsignal(number) is signal.SIG_IGN:
            # With a handler that does nothing, the signal is still ignored here, but exec resets it to the default for
            # the children; SIG_IGN would be inherited. SIGINT keeps its meaning: some tests interrupt themselves.
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The next file that is opened would get this number, and a child would take it for its standard stream.
            os.open(os.devnull, os.O_RDWR)
    # pytest captures output while it imports this file, and during a test, but not here.
    config.stash[STDERR] = os.dup(2)


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Limit the clean-up after a test that has failed. pytest ends its own limit, of the whole test, at the failure."""
    limit_s = float(node.config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(limit_s, file=node.config.stash[STDERR], exit=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest. A folder that is not named here comes first."""
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> int:
    folder = path.relative_to(TESTS).parts[0]
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else -1


@pytest.fixture(autouse=True)
def logging_left_alone() -> Iterator[None]:
    """Remove the log handlers that a test leaves which runs the command line in this process."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if type(handler).__module__ == "jobstate_server.logs":
            root.removeHandler(handler)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """A collector that comes as rarely as that of a busy server."""
    gc.disable()
    yield
    gc.enable()
