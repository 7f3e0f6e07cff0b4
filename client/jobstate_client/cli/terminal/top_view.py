"""The moving parts of ``jobstate top``: a thread that follows the watch, one that asks for counts, and the screen."""

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
from jobstate_client.cli.terminal.live_watch import exit_on_signals
from jobstate_client.cli.terminal.top_screen import Size, frame
from jobstate_client.cli.terminal.watch_stream import ResponseEnd, follow
from jobstate_client.core.states import State
from jobstate_client.core.values import SnapshotJob, SnapshotStarted, Synced
from jobstate_client.errors import CursorExpired, CursorUnknown, JobStateError, TransportError, TryLater
from jobstate_client.views.overview import JOBS_KEPT_MAX, Overview

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client
    from jobstate_client.sync.watch import Watch

REDRAW_EVERY_S = 0.25
"""Four pictures a second: bars move, and the eye can still rest on a line."""

STATS_EVERY_S = 2.0
"""How old the counts get. Asking costs the server the same however many jobs there are."""

STATS_TIMEOUT_S = 5.0
"""How long the counts may take to come: a server that is away is noticed by then, and asked again."""

AGAIN_AFTER_S = 1.0
"""Wait before the jobs are read anew after a watch that could not be resumed."""

LEAVE_S = 2.0
"""How long leaving may wait for the threads. They hold nothing that would be lost."""


class Top:
    """The view, from when it is run until it is left."""

    def __init__(self, client: Client, server: str, console: Console) -> None:
        self._client = client
        self._console = console
        self._board = Overview(server)
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._watch: Watch[Any] | None = None
        self._was_live = False
        self._failure: BaseException | None = None
        self._trouble: JobStateError | None = None
        """Why the server is away."""

    def run(self) -> None:
        """Show it until somebody leaves.

        Raises:
            JobStateError: the server was not reached at first, or refuses the watch.
        """
        threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._count)]
        for thread in threads:
            thread.start()
        try:
            with (
                exit_on_signals(),
                _keys_at_once(sys.stdin.fileno()),
                Live(console=self._console, screen=True, auto_refresh=False) as live,
            ):
                while not self._left.is_set():
                    live.update(self._picture(), refresh=True)
                    if _is_left_within(REDRAW_EVERY_S):
                        break
        finally:
            self._left.set()
            if self._watch is not None:
                self._watch.close()
            for thread in threads:
                thread.join(LEAVE_S)
        # Who leaves a view that has never shown anything is told why.
        failure = self._failure or (None if self._was_live else self._trouble)
        if failure is not None:
            raise failure

    def _picture(self) -> Group:
        width, height = self._console.size
        with self._lock:
            lines = frame(self._board, Size(width, height), datetime.now(UTC))
        return Group(*lines)

    def _follow(self) -> None:
        try:
            while not self._left.is_set():
                self._follow_once()
                self._left.wait(AGAIN_AFTER_S)
        except BaseException as failure:
            self._failure = None if self._left.is_set() else failure
            self._left.set()

    def _follow_once(self) -> None:
        """Read the jobs and go on from there, until that is not possible any more."""
        has_read = False
        try:
            with follow(self._client, on_broken=self._broken, latest_progress=True) as self._watch:
                for item in self._watch:
                    now = datetime.now(UTC)
                    if isinstance(item, Synced) and not has_read:
                        # The watch is open, so nothing is missed; a job that comes both ways counts as its newer self.
                        has_read = True
                        self._read_jobs()
                    with self._lock:
                        if isinstance(item, ResponseEnd):
                            self._trouble = None
                            self._board.answered()
                            self._was_live = self._was_live or self._board.is_live
                        else:
                            self._board.take(item, now)
        except (CursorExpired, CursorUnknown):
            # Too much happened while the connection was lost, or the store is another one: read the jobs anew.
            return
        except (TryLater, TransportError) as error:
            if not self._was_live:
                raise
            self._broken(error)

    def _read_jobs(self) -> None:
        """Take in the jobs that are shown, and no others: a store may hold a million that are done."""
        shown = [
            job
            for state in (State.PROCESSING, State.RETRYING)
            for job in islice(self._client.list(states=[state], oldest_first=True), JOBS_KEPT_MAX)
        ]
        now = datetime.now(UTC)
        with self._lock:
            self._board.take(SnapshotStarted(), now)
            for job in shown:
                self._board.take(SnapshotJob(job), now)

    def _broken(self, error: JobStateError) -> None:
        with self._lock:
            self._trouble = error
            told = f"{message(error, self._board.server)}. {hint(error)}"
            self._board.broken(told, datetime.now(UTC))

    def _count(self) -> None:
        while not self._left.is_set():
            try:
                stats = self._client.stats(timeout=STATS_TIMEOUT_S)
            except (JobStateError, ValueError):
                # The watch tells of outages; these counts are then shown as old. ValueError: the channel is closed.
                pass
            else:
                with self._lock:
                    self._board.count(stats, datetime.now(UTC))
            self._left.wait(STATS_EVERY_S)


@contextmanager
def _keys_at_once(terminal: int) -> Iterator[None]:
    """Let each key be read as it is pressed, unseen. Ctrl-C goes on to interrupt."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _is_left_within(seconds: float) -> bool:
    """Whether q is pressed within this time, or the terminal goes away. Other keys shorten no wait."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not select.select([sys.stdin], [], [], left)[0]:
            return False
        pressed = os.read(sys.stdin.fileno(), 64)
        if not pressed or b"q" in pressed.lower():
            return True
    return False
