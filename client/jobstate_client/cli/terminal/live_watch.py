"""A watch at a terminal: events as lines that scroll away, and below them the jobs at work with their bars."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NoReturn, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from jobstate_client.cli.terminal.layout import GAP, Part, event_line, heading, line, running_line
from jobstate_client.cli.terminal.output import STYLES
from jobstate_client.core.states import EventType
from jobstate_client.core.values import Event, Job
from jobstate_client.views.phase import Phase
from jobstate_client.views.rows import NOTE_CHARACTERS_MAX, EventRow, JobRow
from jobstate_client.views.summaries import change_summary
from jobstate_client.views.text import clock, safe

REDRAWS_PER_S = 4
"""Bars drawn more often would be restless and tell no more."""

ECHO_WIDTH = 2
"""Columns left free at the right for the ^C that the terminal echoes: at the very end of a line it would begin another
one, and the bars would not be wiped away whole."""

RUNNING_JOBS_MAX = 1_000
"""Running jobs that are kept for bars. More than any screen has lines, and few enough to cost nothing."""


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block like an exception, so that the terminal is put back in order."""

    def leave(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RunningJobs:
    """The running jobs that the watch has told of, as lines: at most half of the screen."""

    def __init__(self) -> None:
        self._jobs: dict[str, JobRow] = {}
        self._lock = threading.Lock()

    def take(self, job: Job) -> None:
        """A job as it is now."""
        with self._lock:
            self._jobs.pop(job.id, None)
            row = JobRow.of(job)
            if row.phase is Phase.RUNNING:
                while len(self._jobs) >= RUNNING_JOBS_MAX:
                    # Of too many, those go that were heard of the longest ago: they come back with their next event.
                    del self._jobs[next(iter(self._jobs))]
                self._jobs[job.id] = row

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._jobs.clear()

    def lines(self, width: int, height: int, now: datetime) -> list[Text]:
        """The lines, the longest at work first, so that they stay in place."""
        with self._lock:
            jobs = sorted(self._jobs.values(), key=lambda job: (job.claim_time or now, job.id))
        if not jobs:
            return []
        shown = jobs[: max(1, height // 2 - 1)]
        told = f"{len(shown):,} of {len(jobs):,}" if len(jobs) > len(shown) else f"{len(jobs):,}"
        return [heading("Running", told, width), *(running_line(job, width, now) for job in shown)]


class LivePrinter:
    """Tells a watch to a person. Progress moves the bars; everything else is a line."""

    def __init__(self, console: Console, *, follow: bool) -> None:
        self._console = console
        self._emits_synced = follow
        self._bars = RunningJobs()
        self._live = Live(self, console=console, refresh_per_second=REDRAWS_PER_S, transient=True)
        self._signals = exit_on_signals()

    def __enter__(self) -> Self:
        self._signals.__enter__()
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._signals.__exit__(None, None, None)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The bars, as they are now. A line printed above them draws them too, and must not bring back old ones."""
        width, height = console.size
        yield from self._bars.lines(max(1, width - ECHO_WIDTH), height, datetime.now(UTC))

    def event(self, event: Event, cursor: str) -> None:
        """An event."""
        self._bars.take(event.job)
        if event.type is not EventType.PROGRESS:
            self._print(event_line(EventRow.of(event), self._console.width))

    def job(self, job: Job) -> None:
        """A job of the snapshot."""
        self._bars.take(job)
        parts = [Part(clock(job.update_time), 9, "dim"), Part(job.state.value, 18, STYLES.get(job.state, ""))]
        parts.append(Part(safe(job.id), min(36, max(8, self._console.width * 28 // 100)), middle=True))
        rest = max(0, self._console.width - sum(part.width + GAP for part in parts))
        self._print(line(*parts, Part(safe(change_summary(job)[:NOTE_CHARACTERS_MAX]), rest, "dim")))

    def snapshot_started(self) -> None:
        """Forget the jobs."""
        self._bars.clear()

    def synced(self, cursor: str) -> None:
        """Tell once that what comes from here on is news."""
        if self._emits_synced:
            self._emits_synced = False
            self._print(line(Part("following; Ctrl-C ends", self._console.width, "dim")))

    def note(self, text: str) -> None:
        """Tell something beside the events."""
        self._print(line(Part(safe(text), self._console.width, "yellow")))

    def _print(self, text: Text) -> None:
        self._console.print(text, no_wrap=True, crop=True)
