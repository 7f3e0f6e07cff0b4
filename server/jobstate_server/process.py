"""The server process: the limits that it needs from the system, what it prints, and how it exits."""

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
"""The minimum of open files: for the store, its readers, gRPC, and some connections."""

FILES_RECOMMENDED = 4_096
"""With fewer open files a warning is logged: each client connection takes one."""

THREADS_NEEDED = 32
"""Threads that the server and gRPC start on a small machine."""

GAVE_UP = 70
"""The exit code when a vital part has died or hangs: EX_SOFTWARE of sysexits.h."""

STOP_EXTRA_S = 1.9
"""Seconds that a stop may take beyond ``shutdown_grace`` before the process exits at once."""

_FLUSH_S = 1.0
"""How long the process waits for its log to be written before it exits."""

_LAST_FLUSH_S = 0.1
"""The same after the deadline of a stop has passed."""


def serve(settings: Settings, signals: Signals) -> int:
    """Serve until a signal asks to stop. Returns the exit code: 0 after an ordered stop, 1 if it could not serve.

    Raises:
        Stopped: a signal asked to stop before the server had started.
    """
    writer = logs.configure(settings.log_format, settings.log_level)
    try:
        with logs.uncaught_exceptions_logged():
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
        """Exit at once, so that the process is restarted. Everything that was answered is on disk."""
        writer.flush(_FLUSH_S)
        os._exit(GAVE_UP)

    def give_up_late(_why: str) -> None:
        """The same after the deadline of a stop has passed."""
        writer.flush(_LAST_FLUSH_S)
        os._exit(GAVE_UP)

    server = Server(settings, give_up=give_up, log_problem=lambda: writer.problem)
    server.supervisor.watchdog.add_restartable(writer)
    server.supervisor.watchdog.add_ageing(writer)
    deadline = StopDeadline(settings.shutdown_grace / SECOND + STOP_EXTRA_S, give_up_late)
    signals.begin(asyncio.get_running_loop(), deadline.begin)
    try:
        await server.start()
    except (OSError, RuntimeError, MemoryError) as error:
        raise CannotServe(f"cannot start: {str(error) or type(error).__name__}") from error
    collect_rarely()
    _announce(f"jobstate: serving on {server.address}\n")
    await signals.stop.wait()
    await server.stop()


def collect_rarely() -> None:
    """Have the process look for reference cycles rarely, from now on. Call it when the server has started.

    The recent events and the caches hold a hundred thousand long-lived objects without reference cycles. To search them
    for cycles after every few hundred new objects took a tenth of the server's time, and up to 200 ms at once.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _announce(line: str) -> None:
    """Print a line to standard output. Neither a reader that blocks nor an error stops the server."""

    def write() -> None:
        try:
            os.write(logs.STDOUT, line.encode())
        except OSError as error:
            log.warning("standard output cannot be written", extra={"cause": error.strerror})

    threading.Thread(target=write, name="announce", daemon=True).start()


def _prepare_limits() -> None:
    """Raise the limit of open files as far as allowed. Raises CannotServe if that is not enough."""
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
    if soft != resource.RLIM_INFINITY and soft < FILES_RECOMMENDED:
        log.warning("the limit of open files is low, and each client connection takes one", extra={"limit": soft})
    check_threads()


def check_threads() -> None:
    """Check that enough threads can be started: gRPC hangs when it gets none. Raises CannotServe."""
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
