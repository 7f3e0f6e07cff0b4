"""Does an attempt with a command: metadata in, progress out, the exit code is the verdict."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from jobstate_client.core.documents import cut
from jobstate_client.core.job_failure import JobFailure
from jobstate_client.core.limits import TEXT_BYTES_MAX
from jobstate_client.errors import JobStateError

if TYPE_CHECKING:
    from jobstate_client.core.run import Run

LASTING = frozenset(range(64, 79)) - {75}
"""The exit codes of sysexits.h, which say that a repeat fails in the same way; all but EX_TEMPFAIL."""

LINE_BYTES_MAX = 64 * 1024
"""A longer line is handled in pieces: a command that writes no ends of lines must not fill the memory."""

ERROR_LINES_MAX = 20
"""Lines of standard error that are kept for the message of a failure."""

OUTPUT_WAIT_S = 1.0
"""How long to read on after the command has ended: something that it left behind may hold its output open."""

CHECK_S = 0.5
"""How soon the thread that waits for a cancellation notices that the command has ended."""

_PROGRESS = re.compile(r"\s*(100|\d{1,2})\s*%\s*(.*)")


class CommandRunner:
    """A handler of jobs. It may be called from several threads."""

    def __init__(self, command: Sequence[str], server: str, *, kill_after_s: float, names_jobs: bool) -> None:
        """Run nothing yet.

        Args:
            command: the program and its arguments.
            server: the address that the command finds in its environment.
            kill_after_s: how long the command may take to end after SIGTERM.
            names_jobs: whether its lines are written with the id of the job, because several run at a time.
        """
        self._command = list(command)
        self._server = server
        self._kill_after_s = kill_after_s
        self._names_jobs = names_jobs
        self._lock = threading.Lock()
        self._running: dict[subprocess.Popen[bytes], threading.Event] = {}
        """The commands that have not ended, and what is set when they have."""

    def __call__(self, run: Run) -> None:
        """Do the attempt.

        Raises:
            JobFailure: the command failed.
            JobStateError: the attempt is over.
        """
        errors: deque[str] = deque(maxlen=ERROR_LINES_MAX)
        with tempfile.TemporaryFile() as metadata:
            # A file, because a pipe would have to be fed while the command runs.
            metadata.write(json.dumps(run.job.metadata, ensure_ascii=False).encode() + b"\n")
            metadata.seek(0)
            process = subprocess.Popen(
                self._command,
                stdin=metadata,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | self._variables(run),
                # Ctrl-C at the terminal is for this program alone. A signal of ours is for all that the command starts.
                process_group=0,
            )
        code = self._follow(process, run, errors)
        run.check()
        if code:
            raise _failure(code, errors)

    def _variables(self, run: Run) -> dict[str, str]:
        return {
            "JOBSTATE_SERVER": self._server,
            "JOBSTATE_JOB_ID": run.id,
            "JOBSTATE_JOB_TYPE": run.job.job_type,
            "JOBSTATE_ATTEMPT": str(run.attempt),
            "JOBSTATE_SOURCE_ID": run.job.source_id,
        }

    def _follow(self, process: subprocess.Popen[bytes], run: Run, errors: deque[str]) -> int:
        """Wait for the command to end. Returns its exit code; negative is a signal."""
        ended = threading.Event()
        with self._lock:
            self._running[process] = ended
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            self._thread(lambda: self._read(process.stdout, lambda line: self._told(run, line))),
            self._thread(lambda: self._read(process.stderr, lambda line: self._complained(run, errors, line))),
        ]
        self._thread(self._end_when_over, process, run, ended)
        try:
            return process.wait()
        finally:
            ended.set()
            with self._lock:
                del self._running[process]
            for reader in readers:
                reader.join(OUTPUT_WAIT_S)

    @staticmethod
    def _thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, name="jobstate-command", daemon=True)
        thread.start()
        return thread

    @staticmethod
    def _read(stream: IO[bytes] | None, handle: Callable[[str], None]) -> None:
        assert stream is not None
        with stream:
            while line := stream.readline(LINE_BYTES_MAX):
                handle(line.decode("utf-8", "replace").rstrip("\r\n"))

    def _told(self, run: Run, line: str) -> None:
        """A line of standard output: progress, or output for whoever started us."""
        found = _PROGRESS.fullmatch(line)
        if found is None:
            self._write(sys.stdout, run, line)
            return
        # An attempt that is over is ended by another thread.
        with suppress(JobStateError):
            run.progress(int(found[1]), cut(found[2], TEXT_BYTES_MAX) if found[2] else None)

    def _complained(self, run: Run, errors: deque[str], line: str) -> None:
        errors.append(line)
        self._write(sys.stderr, run, line)

    def _write(self, stream: IO[str], run: Run, line: str) -> None:
        # The command goes on when nobody reads its output any more.
        with self._lock, suppress(OSError, ValueError):
            stream.write(f"{run.id}: {line}\n" if self._names_jobs else f"{line}\n")
            stream.flush()

    def _end_when_over(self, process: subprocess.Popen[bytes], run: Run, ended: threading.Event) -> None:
        """End the command when its attempt is over: cancelled, timed out or given back."""
        while not ended.is_set():
            if run.cancelled.wait(CHECK_S):
                self._end(process, ended)
                return

    def _end(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        _signal(process, signal.SIGTERM, ended)
        if not ended.wait(self._kill_after_s):
            _signal(process, signal.SIGKILL, ended)

    def end_all(self) -> None:
        """End the commands that are still running, because this program ends."""
        with self._lock:
            running = dict(self._running)
        threads = [self._thread(self._end, *each) for each in running.items()]
        for thread in threads:
            thread.join()


def _signal(process: subprocess.Popen[bytes], number: int, ended: threading.Event) -> None:
    """Send a signal to the command and all that it has started."""
    if not ended.is_set():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _failure(code: int, errors: Sequence[str]) -> JobFailure:
    """The failure that an exit code means, with the last lines of standard error."""
    name = f"EXIT_{code}" if code > 0 else f"SIGNAL_{_signal_name(-code)}"
    what = f"the command ended with {code}" if code > 0 else f"the command was ended by {_signal_name(-code)}"
    text = "\n".join(errors).strip()
    # The end of it says most.
    last = text.encode("utf-8", "replace")[-TEXT_BYTES_MAX:].decode("utf-8", "ignore")
    return JobFailure(last or what, code=name, retryable=code not in LASTING)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
