"""The server process as a run holds it: started, killed, paused, started again on the same port and store."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from jobstate_server.clock import SystemClock
from jobstate_server.domain.durations import SECOND
from jobstate_server.store.sqlite.store import SqliteStore

from ..support.ports import ReservedPort
from .recording import make_archive
from .server_process import OFFSET

ROOT = Path(__file__).resolve().parents[2]

PATIENCE_S = 60.0
"""How long a server may take to start or to end before a run fails; nothing that works comes near."""


STORE_IS_GONE = (
    "the store cannot be written",
    "the store cannot be read",
    "the store cannot be used",
    "the store has not answered",
    "stopping although the store does not answer",
)
"""What a server logs as an error when PostgreSQL is taken away from it."""


PART_IS_BROKEN = (
    "thread has died",
    "has stopped and is restarted",
    "had stopped",
    "could not be delivered",
    "could not be limited",
    "Exception in callback",
    "never retrieved",
    "not serving",
)
"""What a server logs as an error when a part of it is broken."""

TRACEBACK_MAX = 60
"""Lines in which a traceback names its exception."""


def memory_kib(pid: int, what: str = "VmRSS") -> int:
    """The resident memory of a process now; at its height as VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    return 0


class ServerProcess:
    """One port, one server at a time, on a store of its own or one that it shares."""

    def __init__(
        self,
        directory: Path,
        *,
        small: bool,
        grace: float = 2.0,
        url: str = "",
        name: str = "server",
        recurring: bool = False,
    ) -> None:
        """Make the store, with the archive that the judge reads, unless a ``url`` names one that is there.

        ``name`` tells servers of one directory apart. They share their clock. ``recurring``: it creates a job each
        minute.
        """
        self.name = name
        self.store: Path | str = url or directory / "jobs.db"
        self.url = url or f"sqlite:///{self.store}"
        self.log = directory / f"{name}.log"
        self._port = ReservedPort()
        self.address = self._port.address
        self.starts = 0
        self.configuration = 0
        """The number of the job types that it is started with."""
        self.sabotaged: Counter[int] = Counter()
        """By process: how many of its parts were broken."""
        self._sabotage = directory / f"{name}.sabotage"
        self._clock = directory / "clock"
        self._clock.write_bytes(OFFSET.pack(0))
        self._small = small
        self._grace = grace
        self._recurring = recurring
        self._process: asyncio.subprocess.Process | None = None
        if isinstance(self.store, Path):
            SqliteStore(self.store, SystemClock()).close()
            make_archive(self.store)

    @property
    def pid(self) -> int:
        """The running server's."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether the process is stopped by a signal."""
        # The name, in parentheses, may hold anything.
        return Path(f"/proc/{self.pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "T"

    def set_clock(self, seconds: float) -> None:
        """Set the server's wall clock forward, or back."""
        (offset,) = OFFSET.unpack(self._clock.read_bytes())
        with self._clock.open("r+b") as file:
            file.write(OFFSET.pack(offset + round(seconds * SECOND)))

    async def start(self, *, still: bool = False) -> None:
        """Start a server and wait until it serves. ``still``: it does nothing by itself."""
        command = ["-m", "tests.robustness.server_process", "--store", self.url, "--listen", self.address]
        command += ["--clock", str(self._clock), "--grace", str(self._grace), *(["--small"] if self._small else [])]
        command += ["--configuration", str(self.configuration)]
        command += ["--still"] if still else ["--sabotage", str(self._sabotage)]
        command += ["--recurring"] if self._recurring and not still else []
        with self.log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=errors
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await self._process.stdout.readline()).decode()
        assert line.startswith("jobstate: serving on "), f"{line!r}\n{self.log.read_text()[-2000:]}"
        self.starts += 1

    def sabotage(self, part: str) -> None:
        """Break a part of the running server, at its next turn."""
        self._sabotage.write_text(part, "utf-8")
        self.sabotaged[self.pid] += 1
        self.signal(signal.SIGUSR1)

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal, unless it has ended by itself."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self, patience_s: float = PATIENCE_S) -> int:
        """Wait until the server has ended, and tell its exit code."""
        assert self._process is not None
        async with asyncio.timeout(patience_s):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode

    async def stop(self) -> None:
        """Make sure that no server is left."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    @property
    def complaints(self) -> list[str]:
        """Lines of the log that tell of something nobody foresaw."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        foreseen: tuple[str, ...] = () if isinstance(self.store, Path) else STORE_IS_GONE
        if self.sabotaged:
            foreseen += PART_IS_BROKEN
        return [
            line
            for number, line in enumerate(lines)
            if ("Traceback" in line or " ERROR " in line or "never retrieved" in line)
            and not any(words in line for words in foreseen)
            and not (
                "Traceback" in line and any("Sabotaged" in told for told in lines[number : number + TRACEBACK_MAX])
            )
        ]
