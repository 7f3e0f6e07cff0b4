"""What every language's tests share: a server that goes away and comes back, load on it, its log, and probes.

A probe is a small program of the language under test. The one that watches, ``watch HOST:PORT [CURSOR_FILE]``, prints
``<sequence> <name> <job_id>`` for each event from the oldest kept, or from the cursor in the file, and ends when it
sees the cancellation of the job ``end-of-watch``, or when its standard input is closed.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc
from jobstate_client import Client, JobStateError, TransportError

from ..support.ports import ReservedPort

ROOT = Path(__file__).resolve().parents[2]

PATIENCE_S = 60.0
"""How long a test waits for what must happen before it fails; nothing that works comes near."""

END_OF_WATCH = "end-of-watch"
"""The job whose cancellation ends a probe that watches."""

RESTARTS = 8
"""How often the server goes away under a watcher: half of them told beforehand (SIGTERM), half not (SIGKILL)."""

LOAD_PAUSE_S = 0.002
"""Between two jobs of the load, so that a machine with few cores has some left for the probe."""

Logged = tuple[int, str, str]
"""Sequence, name and job of an event."""


class InteropServer:
    """A server process on one port and one file, which can be restarted and frozen."""

    def __init__(self, directory: Path, **settings: str) -> None:
        """Serve; ``settings`` go into the environment, as in docs/operations.md."""
        self.store = directory / "jobs.db"
        self.log = directory / "server.log"
        self._port = ReservedPort()
        self.address = self._port.address
        self.restarts = 0
        self._settings = {"JOBSTATE_SHUTDOWN_GRACE": "2s", "JOBSTATE_RESTART_GRACE": "30s"} | settings
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Serve, always at the same address. Returns once it serves."""
        command = [sys.executable, "-m", "jobstate_server", "serve", "--listen", self.address]
        command += ["--store", f"sqlite:///{self.store}"]
        with self.log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | self._settings, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        greeting = "jobstate: serving on "
        if not line.startswith(greeting):
            self.close()
            raise AssertionError(f"the server does not serve; on stderr: {self.log.read_text('utf-8')}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, and tell the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._reap()

    def restart(self) -> signal.Signals:
        """End it and serve again: by SIGTERM the first time, by SIGKILL the second, and so on in turn."""
        number = signal.SIGKILL if self.restarts % 2 else signal.SIGTERM
        code = self.end(number)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0), self.log.read_text("utf-8")
        self.start()
        self.restarts += 1
        return number

    def pause(self) -> None:
        """Freeze it: connections stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Make sure that no server is left."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._reap()

    def _reap(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        code = self._process.wait(PATIENCE_S)
        self._process.stdout.close()
        return code


@contextmanager
def stub_of(address: str) -> Iterator[rpc.JobServiceStub]:
    """The generated Python stub, on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield rpc.JobServiceStub(channel)


def events_of_the_log(address: str) -> list[Logged]:
    """Every event that the server's log holds, in order, by nothing but the generated stub."""
    request = pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, follow=False)
    with stub_of(address) as stub:
        return [
            (event.sequence, event.name, event.job.id)
            for response in stub.WatchEvents(request, timeout=PATIENCE_S)
            for event in response.events
        ]


def end_the_watch(address: str) -> None:
    """Make the event at which probes that watch end."""
    with Client(address, wait_for_ready=True) as client:
        client.cancel(client.create("default", id=END_OF_WATCH), "the test is over")


class Load:
    """Jobs created and driven to their ends, one after the other, for as long as the ``with`` block lasts.

    The server may go away meanwhile: a call is repeated with its request_id until it is answered. A call that meets
    the very moment of a stop may be broken off for good; its job is then left as a worker that died would leave it.
    """

    def __init__(self, address: str) -> None:
        self.finished = 0
        """Jobs that have reached a final state."""
        self._client = Client(address, timeout=PATIENCE_S, wait_for_ready=True)
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._failure is not None and error is None:
            raise AssertionError("the load broke off") from self._failure

    def stop(self) -> None:
        """Let the job under way end, and make no more."""
        self._over.set()
        self._thread.join(PATIENCE_S)
        self._client.close()

    def _run(self) -> None:
        try:
            while not self._over.wait(LOAD_PAUSE_S):
                with suppress(TransportError):
                    self._one_life()
        except JobStateError as failure:
            self._failure = failure

    def _one_life(self) -> None:
        client = self._client
        job = client.create("default", source_id="load", metadata={"number": self.finished})
        if self.finished % 5 == 4:
            client.cancel(job, "one in five is not wanted")
        else:
            job = client.start(job, worker="load")
            for progress in (25, 50, 75):
                client.progress(job, progress, "on its way")
            if self.finished % 5 == 3:
                client.fail(job, "BROKEN", "one in five breaks", retryable=False)
            else:
                client.complete(job, result_count=self.finished)
        self.finished += 1


class Probe:
    """A program of the language under test, which runs until its ``with`` block ends or it ends by itself."""

    def __init__(
        self, command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._command = [str(word) for word in command]
        self._process = subprocess.Popen(
            self._command,
            cwd=cwd,
            env=os.environ | dict(env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()
        self.told: list[str] = []
        """The lines that have been looked at."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    @property
    def errors(self) -> str:
        """What it has written to its standard error."""
        return "".join(self._errors)

    def line(self) -> str:
        """The next line that it prints."""
        try:
            line = self._lines.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise AssertionError(f"{self._command} prints nothing; on stderr: {self.errors}") from None
        if line is None:
            self._readers[1].join(PATIENCE_S)
            raise AssertionError(f"{self._command} has ended; on stderr: {self.errors}")
        self.told.append(line)
        return line

    def until_past(self, sequence: int) -> None:
        """Read until an event later than this sequence has been told."""
        while int(self.line().split()[0]) <= sequence:
            pass

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def rest(self, expected: int = 0) -> list[str]:
        """All lines it has told, the rest awaited; it has to end by itself, and with this code."""
        while (line := self._lines.get(timeout=PATIENCE_S)) is not None:
            self.told.append(line)
        code = self._process.wait(PATIENCE_S)
        self._readers[1].join(PATIENCE_S)
        assert code == expected, f"{self._command} ended with {code}; on stderr: {self.errors}"
        return self.told

    def say(self) -> None:
        """Give it an empty line to read."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close_stdin(self) -> None:
        """Tell it to stop."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)


def run_probe(
    command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> list[str]:
    """The lines that a program prints until it ends, which it has to do well."""
    with Probe(command, cwd=cwd, env=env) as probe:
        return probe.rest()


def told_events(lines: Sequence[str]) -> list[Logged]:
    """The events that a watching probe has told."""
    split = [line.split(" ") for line in lines]
    return [(int(sequence), name, job_id) for sequence, name, job_id in split]


def watch_through_restarts(
    server: InteropServer, command: Sequence[str | Path], *, cwd: Path | None = None, restarts: int = RESTARTS
) -> tuple[list[Logged], list[Logged]]:
    """What a watching probe tells while the server restarts under load, and what the log holds in the end.

    A restart is made only once the probe has told an event from after the one before, so each of them breaks a watch
    that was going on.
    """
    with Probe(command, cwd=cwd) as probe, Load(server.address) as load:
        for _ in range(restarts):
            probe.line()
            server.restart()
            probe.until_past(events_of_the_log(server.address)[-1][0])
        load.stop()
        end_the_watch(server.address)
        told = told_events(probe.rest())
    assert load.finished > restarts, "there was hardly any load"
    return told, events_of_the_log(server.address)


def story_transcript(address: str, created: str = "") -> list[str]:
    """What the story prints in every language, once it has been run on the server at ``address``.

    Where that has other jobs too, ``created`` is the story's own first line.
    """
    first = [f"created {job_id}" for _, name, job_id in events_of_the_log(address) if name == "processing-job.queued"]
    assert created in first or len(first) == 1
    return [
        created or first[0],
        "started attempt 1",
        "progress 50 half way",
        "completed",
        "refused TRANSITION_NOT_ALLOWED: COMPLETED allows nothing",
        "events: processing-job.queued, processing-job.started, processing-job.progress, processing-job.completed",
    ]
