"""The server as a process: what it needs of the system, what it prints, and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import threading
from collections.abc import Coroutine
from typing import Any

from jobstate_server import logs
from jobstate_server.app import CannotServe, Server
from jobstate_server.config import Settings
from jobstate_server.domain.durations import SECOND
from jobstate_server.signals import Signals
from jobstate_server.store.errors import StoreError
from jobstate_server.supervision.stop_deadline import StopDeadline

log = logging.getLogger(__name__)

FILES_NEEDED = 256
"""Open files without which nothing can be served: the store, its readers, gRPC's own, and some connections."""

FILES_FEW = 4_096
"""Fewer are told: each client takes one."""

THREADS_NEEDED = 32
"""Threads that the server and gRPC start at once on a small machine."""

GAVE_UP = 70
"""Exit code of a server of which a part has died: EX_SOFTWARE of sysexits.h."""

STOP_EXTRA_S = 1.9
"""Beyond ``shutdown_grace``: how long an ordered stop may take before the process ends at once."""

_FLUSH_S = 1.0
"""How long the process waits for the reader of its log when it ends."""

_LAST_FLUSH_S = 0.1
"""The same once the process has taken longer to stop than it may."""


def serve(settings: Settings, signals: Signals) -> int:
    """Serve until told to stop. Returns the exit code: 0 stopped as told, 1 it could not serve.

    Raises:
        Stopped: told to stop before it served.
    """
    writer = logs.set_up(settings.log_format, settings.log_level)
    try:
        with logs.python_s_own():
            _prepare_limits()
            _run(_serve(settings, signals, writer))
    except (CannotServe, StoreError) as error:
        writer.put(f"jobstate-server: {error}")
        return 1
    finally:
        writer.flush(_FLUSH_S)
    return 0


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop  # noqa: PLC0415 - not on every system
    except ModuleNotFoundError:
        asyncio.run(work)
    else:
        uvloop.run(work)


async def _serve(settings: Settings, signals: Signals, writer: logs.Writer) -> None:
    def give_up(_why: str) -> None:
        """End at once, for the supervisor to start a new process. Everything answered is on disk."""
        writer.flush(_FLUSH_S)
        os._exit(GAVE_UP)

    def give_up_stopping(_why: str) -> None:
        """The same for a process that is late already."""
        writer.flush(_LAST_FLUSH_S)
        os._exit(GAVE_UP)

    server = Server(settings, give_up=give_up)
    server.supervisor.watchdog.look_after(writer)
    deadline = StopDeadline(settings.shutdown_grace / SECOND + STOP_EXTRA_S, give_up_stopping)
    signals.begin(asyncio.get_running_loop(), deadline.begin)
    try:
        await server.start()
    except (OSError, RuntimeError, MemoryError) as error:
        raise CannotServe(f"cannot start: {str(error) or type(error).__name__}") from error
    # The ring and the cache keep a hundred thousand objects that live long and refer to nothing in circles: looking for
    # circles among them after every few hundred new ones took a tenth of the server's time.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    _announce(f"jobstate: serving on {server.address}\n")
    await signals.stop.wait()
    await server.stop()


def _announce(line: str) -> None:
    """Print a line, without waiting for whoever reads standard output, or caring whether it can be written."""

    def write() -> None:
        try:
            os.write(logs.STDOUT, line.encode())
        except OSError as error:
            log.warning("standard output cannot be written", extra={"cause": error.strerror})

    threading.Thread(target=write, name="announce", daemon=True).start()


def _prepare_limits() -> None:
    """Take as many files as the system gives. Raises CannotServe when it gives too little to serve at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit of open files cannot be raised", extra={"limit": soft, "cause": str(error)})
    if soft != resource.RLIM_INFINITY and soft < FILES_NEEDED:
        raise CannotServe(
            f"the system allows {soft} open files, and at least {FILES_NEEDED} are needed: raise the hard limit"
            " (ulimit -Hn, or LimitNOFILE of the unit)"
        )
    if soft != resource.RLIM_INFINITY and soft < FILES_FEW:
        log.warning("few open files are allowed, and each client takes one", extra={"limit": soft})
    _check_threads()


def _check_threads() -> None:
    """gRPC, where it gets no thread, neither serves nor ends. Raises CannotServe."""
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(THREADS_NEEDED):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise CannotServe(
            f"the system allows no more than {len(started)} threads, and {THREADS_NEEDED} are needed: raise the limit"
            " of processes and threads (ulimit -u, TasksMax of the unit, pids of the container)"
        ) from error
    finally:
        enough.set()
        for thread in started:
            thread.join()
