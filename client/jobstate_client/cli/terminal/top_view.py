"""Runs ``jobstate top``: a thread that follows the watch, a thread that gets the counts, and the screen."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live

from jobstate_client.cli.terminal.error_messages import hint, message
from jobstate_client.cli.terminal.signals import exit_on_signals
from jobstate_client.cli.terminal.top_screen import Size, frame
from jobstate_client.cli.terminal.watch_stream import ResponseEnd, watch_stream
from jobstate_client.core.states import State
from jobstate_client.core.values import SnapshotJob, SnapshotStarted, Synced
from jobstate_client.errors import CursorExpired, CursorUnknown, JobStateError, TransportError, TryLater
from jobstate_client.views.held import LANES_MAX, held_text, waiting_types
from jobstate_client.views.job_list import JOBS_KEPT_MAX
from jobstate_client.views.overview import Overview

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Stats
    from jobstate_client.sync.client import Client
    from jobstate_client.sync.watch import Watch

REDRAW_INTERVAL_S = 0.25
"""Four frames a second: bars move, and lines stay long enough to be read."""

STATS_INTERVAL_S = 2.0
"""How often the counts are refreshed. Their cost for the server does not depend on the number of jobs."""

STATS_TIMEOUT_S = 5.0
"""How long the counts may take: an outage is noticed by then, and the next call is made."""

RELOAD_DELAY_S = 1.0
"""Wait before the jobs are listed again, after a watch that could not be resumed."""

JOIN_TIMEOUT_S = 2.0
"""How long leaving waits for the threads. They hold nothing that could be lost."""


class TopView:
    """The live view, until the user leaves it."""

    def __init__(self, client: Client, server: str, console: Console) -> None:
        self._client = client
        self._console = console
        self._overview = Overview(server)
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._watch: Watch[Any] | None = None
        self._was_live = False
        self._failure: BaseException | None = None
        self._outage: JobStateError | None = None
        """Why the server is away."""

    def run(self) -> None:
        """Show the view until the user leaves it.

        Raises:
            JobStateError: the first connection failed, or the server refused the watch.
        """
        threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._refresh_counts)]
        for thread in threads:
            thread.start()
        try:
            with (
                exit_on_signals(),
                _unbuffered_keys(sys.stdin.fileno()),
                Live(console=self._console, screen=True, auto_refresh=False) as live,
            ):
                while not self._left.is_set():
                    live.update(self._frame(), refresh=True)
                    if _quits_within(REDRAW_INTERVAL_S):
                        break
        finally:
            self._left.set()
            if self._watch is not None:
                self._watch.close()
            for thread in threads:
                thread.join(JOIN_TIMEOUT_S)
        # A user who leaves a view that has never shown anything gets the reason.
        failure = self._failure or (None if self._was_live else self._outage)
        if failure is not None:
            raise failure

    def _frame(self) -> Group:
        width, height = self._console.size
        with self._lock:
            lines = frame(self._overview, Size(width, height), datetime.now(UTC))
        return Group(*lines)

    def _follow(self) -> None:
        try:
            while not self._left.is_set():
                self._follow_once()
                self._left.wait(RELOAD_DELAY_S)
        except BaseException as failure:
            self._failure = None if self._left.is_set() else failure
            self._left.set()

    def _follow_once(self) -> None:
        """List the jobs and follow the watch, until it cannot be resumed."""
        is_listed = False
        try:
            with watch_stream(self._client, on_outage=self._connection_lost, latest_progress=True) as self._watch:
                for item in self._watch:
                    now = datetime.now(UTC)
                    if isinstance(item, Synced) and not is_listed:
                        # The watch is open, so nothing is missed; of a job that comes twice the newer version counts.
                        is_listed = True
                        self._list_jobs()
                    with self._lock:
                        if isinstance(item, ResponseEnd):
                            self._outage = None
                            self._overview.connected()
                            self._was_live = self._was_live or self._overview.is_live
                        else:
                            self._overview.update(item, now)
        except (CursorExpired, CursorUnknown):
            # The outage was too long, or it is another store: list the jobs again.
            return
        except (TryLater, TransportError) as error:
            if not self._was_live:
                raise
            self._connection_lost(error)

    def _list_jobs(self) -> None:
        """List the jobs that the view shows, and no others: a store may hold a million final ones."""
        shown = [
            job
            for state in (State.PROCESSING, State.RETRYING)
            for job in islice(self._client.list(states=[state], oldest_first=True), JOBS_KEPT_MAX)
        ]
        now = datetime.now(UTC)
        with self._lock:
            self._overview.update(SnapshotStarted(), now)
            for job in shown:
                self._overview.update(SnapshotJob(job), now)

    def _connection_lost(self, error: JobStateError) -> None:
        with self._lock:
            self._outage = error
            reason = f"{message(error, self._overview.server)}. {hint(error)}"
            self._overview.connection_lost(reason, datetime.now(UTC))

    def _refresh_counts(self) -> None:
        while not self._left.is_set():
            try:
                stats = self._client.stats(timeout=STATS_TIMEOUT_S)
            except (JobStateError, ValueError):
                # The watch reports outages, and the view marks these counts as old. ValueError: the channel is closed.
                pass
            else:
                held = self._held(stats)
                with self._lock:
                    self._overview.set_counts(stats, datetime.now(UTC))
                    self._overview.set_held(held)
            self._left.wait(STATS_INTERVAL_S)

    def _held(self, stats: Stats) -> dict[str, str]:
        """What holds back the types with the most jobs that wait; nothing if an older server does not say."""
        held = {}
        try:
            names = waiting_types(stats)
            policies = {each.name: each for each in self._client.job_types(timeout=STATS_TIMEOUT_S).types if names}
            for name in names:
                policy = policies.get(name, policies["default"])
                status = self._client.type_status(name, timeout=STATS_TIMEOUT_S)
                lanes = self._client.lanes(name, page_size=LANES_MAX + 1, timeout=STATS_TIMEOUT_S)
                seen = list(islice(lanes, LANES_MAX + 1))
                held[name] = held_text(policy, stats.job_types[name].running, status, seen)
        except (JobStateError, ValueError, LookupError):
            return {}
        return {name: text for name, text in held.items() if text}


@contextmanager
def _unbuffered_keys(terminal: int) -> Iterator[None]:
    """Read each key when it is pressed, without echo. Ctrl-C still interrupts."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _quits_within(seconds: float) -> bool:
    """Wait this long. Returns early, with True, if q is pressed or the terminal is gone. Other keys are ignored."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not select.select([sys.stdin], [], [], left)[0]:
            return False
        pressed = os.read(sys.stdin.fileno(), 64)
        if not pressed or b"q" in pressed.lower():
            return True
    return False
