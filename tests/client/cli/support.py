"""Runs the command line for tests: in this process, in its own process, or in its own process on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from jobstate_client.cli import main
from jobstate_client.testing import JobstateServer

from ..support import PATIENCE_S

PROGRAM = [sys.executable, "-m", "jobstate_client.cli"]

_SEQUENCES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>])")


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document that was written."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def json_lines(self) -> list[Any]:
        """The documents that were written, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class _Stream(io.TextIOWrapper):
    def __init__(self, *, is_terminal: bool = False) -> None:
        self.bytes = io.BytesIO()
        self._is_terminal = is_terminal
        super().__init__(self.bytes, encoding="utf-8", newline="\n")

    def isatty(self) -> bool:
        return self._is_terminal

    def text(self) -> str:
        self.flush()
        return self.bytes.getvalue().decode()


def run(server: JobstateServer | str, *arguments: str, terminal: bool = False) -> Result:
    """Run a command in this process; with ``terminal`` as if a person watched."""
    address = server if isinstance(server, str) else server.address
    out, err = _Stream(is_terminal=terminal), _Stream(is_terminal=terminal)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--server", address, *arguments])
    return Result(code, out.text(), err.text())


def environment(**variables: str) -> dict[str, str]:
    """What a process of its own sees: the same packages as this one, and no settings of ours."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("JOBSTATE_")}
    terminal = {"TERM": "xterm-256color", "COLUMNS": "", "LINES": "", "NO_COLOR": ""}
    kept = {name: value for name, value in ours.items() if name not in terminal}
    return kept | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color"} | variables


def run_alone(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(
    *arguments: str, program: Sequence[str] = PROGRAM, stdout: int | IO[str] = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, with pipes, for as long as the block lasts."""
    process = subprocess.Popen(
        [*program, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._raw = b""
        self.is_over = False

    @property
    def text(self) -> str:
        """Everything written so far, without what only moves the cursor or paints."""
        return _SEQUENCES.sub("", self.raw)

    @property
    def raw(self) -> str:
        """Everything written so far, as the terminal got it."""
        return self._raw.decode("utf-8", "replace")

    def mark(self) -> None:
        """Forget what was written so far."""
        self._raw = b""

    def until(self, is_so: Callable[[str], object]) -> str:
        """Read on until the text is as wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_so(self.text):
            assert time.monotonic() < deadline, f"it does not show: {self.text[-4000:]}"
            assert not self.is_over, f"it has ended: {self.text[-4000:]}"
            self._read()
        return self.text

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self) -> int:
        """Read to the end. Returns the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_over:
            assert time.monotonic() < deadline, "it does not end"
            self._read()
        return self.process.wait(PATIENCE_S)

    def settings(self) -> list[Any]:
        """How the terminal is set up: whether it echoes, and so on."""
        return termios.tcgetattr(self._master)

    def _read(self) -> None:
        if select.select([self._master], [], [], 0.1)[0]:
            try:
                self._raw += os.read(self._master, 65_536)
            except OSError:
                # Linux says so when nobody is left at the other end.
                self.is_over = True
        elif self.process.poll() is not None:
            self.is_over = True


@contextmanager
def at_terminal(
    *arguments: str, program: Sequence[str] = PROGRAM, columns: int = 80, lines: int = 24, **variables: str
) -> Iterator[Terminal]:
    """A command at a terminal of this size, for as long as the block lasts."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [*program, *arguments], env=environment(**variables), stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    try:
        with process:
            try:
                yield Terminal(process, master)
            finally:
                process.kill()
    finally:
        os.close(master)
