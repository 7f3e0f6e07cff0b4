"""A watch on a terminal: events as lines that scroll away, and below them the running jobs with their bars."""

from __future__ import annotations

from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from jobstate_client.cli.terminal.job_lines import event_line, id_width, rest_width, running_line
from jobstate_client.cli.terminal.layout import Part, heading, line
from jobstate_client.cli.terminal.signals import exit_on_signals
from jobstate_client.cli.terminal.styles import STATE_STYLES
from jobstate_client.core.states import EventType
from jobstate_client.core.values import Event, Job
from jobstate_client.views.overview import shown_of
from jobstate_client.views.rows import EventRow, short_note
from jobstate_client.views.running_jobs import RunningJobs
from jobstate_client.views.summaries import change_summary
from jobstate_client.views.text import clock, safe

REDRAWS_PER_S = 4
"""Bars that are drawn more often would flicker and show no more."""

ECHO_WIDTH = 2
"""Columns left free on the right for the ^C that the terminal echoes: at the end of a line it would start another one,
and the bars would not be erased completely."""


def bars(jobs: RunningJobs, width: int, height: int, now: datetime) -> list[Text]:
    """The lines of the running jobs: at most half of the screen."""
    running = jobs.all(now)
    if not running:
        return []
    shown = running[: max(1, height // 2 - 1)]
    title = shown_of(len(shown), len(running))
    return [heading("Running", title, width), *(running_line(job, width, now) for job in shown)]


class LivePrinter:
    """Shows a watch to a person. Progress moves the bars; every other event is a line."""

    def __init__(self, console: Console, *, follow: bool) -> None:
        self._console = console
        self._announces_synced = follow
        self._running = RunningJobs()
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
        """The bars as they are now. Printing a line above redraws them too, so they must not be kept from before."""
        width, height = console.size
        yield from bars(self._running, max(1, width - ECHO_WIDTH), height, datetime.now(UTC))

    def event(self, event: Event, cursor: str) -> None:
        """Show an event."""
        self._running.update(event.job)
        if event.type is not EventType.PROGRESS:
            self._print(event_line(EventRow.of(event), self._console.width))

    def job(self, job: Job) -> None:
        """Show a job of the snapshot."""
        self._running.update(job)
        width = self._console.width
        parts = [Part(clock(job.update_time), 9, "dim"), Part(job.state.value, 18, STATE_STYLES.get(job.state, ""))]
        parts.append(Part(safe(job.id), id_width(width), middle=True))
        self._print(line(*parts, Part(short_note(change_summary(job)), rest_width(parts, width), "dim")))

    def snapshot_started(self) -> None:
        """Forget the jobs."""
        self._running.clear()

    def synced(self, cursor: str) -> None:
        """Say once that new events follow."""
        if self._announces_synced:
            self._announces_synced = False
            self._print(line(Part("following; Ctrl-C ends", self._console.width, "dim")))

    def note(self, text: str) -> None:
        """Show a note between the events."""
        self._print(line(Part(safe(text), self._console.width, "yellow")))

    def _print(self, text: Text) -> None:
        self._console.print(text, no_wrap=True, crop=True)
