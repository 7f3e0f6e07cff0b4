"""Server and worker processes for tests of the client: what is killed here is really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..support.server import HARDLY_EVER, QUIET
from .support import PATIENCE_S

JOB_TYPES: Mapping[str, Mapping[str, Any]] = {
    "resting": {"auto_retry": False},
    # Long enough for the second attempt to end, short enough to wait for it.
    "timed": {"timeout": "3s", "base_delay": "10ms"},
    "silent": {"timeout": "none", "stale_threshold": "300ms", "base_delay": "10ms"},
}


class Child:
    """A process of ours that is spoken to line by line."""

    def __init__(
        self, *command: str, env: Mapping[str, str] | None = None, log: Path | None = None, cwd: Path | None = None
    ) -> None:
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
        with (log or Path(os.devnull)).open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors if log else None,
                # Unbuffered, so that whoever waits for the rest of what it says gets all of it.
                bufsize=0,
                env={**os.environ, **paths, **(env or {})},
                cwd=cwd,
            )

    def hear(self) -> str:
        """The next line that it says; empty once it has ended."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        watchdog.start()
        try:
            return self.process.stdout.readline().decode().strip()
        finally:
            watchdog.cancel()

    def say(self, line: str) -> None:
        """Tell it something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Send it a signal and wait until it has ended. Returns what it still said."""
        self.send(number)
        said, _ = self.process.communicate(timeout=PATIENCE_S)
        return said.decode()

    def close(self) -> None:
        """Make sure that nothing is left of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextmanager
def child(*command: str, **options: Any) -> Iterator[Child]:
    """A process that is gone when the block ends."""
    process = Child(*command, **options)
    try:
        yield process
    finally:
        process.close()


@contextmanager
def server_process(store: Path, listen: str = "127.0.0.1:0") -> Iterator[tuple[Child, str]]:
    """A server that goes by the machine's time, and its address, from when it says that it serves."""
    tasks = {f"JOBSTATE_SCHEDULES__{task.upper()}": HARDLY_EVER for task in QUIET}
    # Otherwise nothing counts as stale before a server has run for half a minute.
    types = {
        f"JOBSTATE_JOB_TYPES__{name}__{setting.upper()}": str(value)
        for name, settings in JOB_TYPES.items()
        for setting, value in settings.items()
    }
    env = {**tasks, **types, "JOBSTATE_RESTART_GRACE": "0s"}
    arguments = ("-m", "jobstate_server", "serve", "--listen", listen, "--store", f"sqlite:///{store}")
    log = store.with_suffix(".log")
    with child(*arguments, env=env, log=log) as process:
        greeting = "jobstate: serving on "
        line = process.hear()
        assert line.startswith(greeting), f"{line!r}, and on stderr: {log.read_text('utf-8')}"
        yield process, line.removeprefix(greeting)
