"""The demo on a terminal: jobs with the event stream beside them. Where there is no terminal: calm lines."""

from __future__ import annotations

import time

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.demo.board import PREFIX, Overview, detail, phase, seconds, state_name
from jobstate_client.demo.scene import ACTS
from jobstate_client.views.phase import Phase

STATE_STYLES = {
    job_pb2.JOB_STATE_QUEUED: "dim",
    job_pb2.JOB_STATE_PROCESSING: "cyan",
    job_pb2.JOB_STATE_RETRYING: "yellow",
    job_pb2.JOB_STATE_FAILED: "red",
    job_pb2.JOB_STATE_COMPLETED: "green",
    job_pb2.JOB_STATE_PERMANENTLY_FAILED: "red",
    job_pb2.JOB_STATE_CANCELLED: "magenta",
}

KIND_STYLES = {
    event_pb2.EVENT_TYPE_PROGRESS: "dim",
    event_pb2.EVENT_TYPE_STARTED: "cyan",
    event_pb2.EVENT_TYPE_CLAIMED: "cyan",
    event_pb2.EVENT_TYPE_COMPLETED: "green",
    event_pb2.EVENT_TYPE_FAILED: "red",
    event_pb2.EVENT_TYPE_RETRYING: "yellow",
    event_pb2.EVENT_TYPE_PERMANENTLY_FAILED: "bold red",
    event_pb2.EVENT_TYPE_CANCELLED: "magenta",
}

SIDE_BY_SIDE_MIN = 93
"""Columns that the two panels need beside each other."""

EVENTS_WIDTH = 45
BAR_WIDTH = 15
STACKED_EVENTS = (4, 12)
"""The least and the greatest height of the events below the jobs."""
MILESTONES = (25, 50, 75)


class Screen:
    """The live picture. ``rich`` asks it anew for each frame."""

    def __init__(self, board: Overview, address: str) -> None:
        self._board = board
        self._address = address

    def frame(self, console: Console) -> RenderableType:
        """The picture as it is now."""
        roomy = console.height >= len(ACTS) * 3 + 6
        jobs_height = len(ACTS) * (3 if roomy else 2) + (1 if roomy else 2)
        jobs = Panel(self._jobs(roomy), title="jobs", title_align="left", border_style="dim", height=jobs_height)
        if console.width < SIDE_BY_SIDE_MIN:
            low, high = STACKED_EVENTS
            return Group(self._header(), jobs, self._events(min(max(low, console.height - jobs_height - 2), high)))
        both = Table.grid(expand=True, padding=(0, 0))
        both.add_column(ratio=1)
        both.add_column(width=EVENTS_WIDTH)
        both.add_row(jobs, self._events(jobs_height))
        return Group(self._header(), both, self._footer())

    def _header(self) -> RenderableType:
        line = Table.grid(expand=True)
        line.add_column()
        line.add_column(justify="right")
        where = f"a server at {self._address}, on a temporary file"
        line.add_row(Text(" jobstate", style="bold"), Text(f"{where}  {self._board.elapsed:5.1f} s ", style="dim"))
        return line

    def _footer(self) -> RenderableType:
        jobs = list(self._board.jobs.values())
        final = sum(phase(job) is Phase.ENDED for job in jobs)
        told = f" {len(jobs)} jobs, {final} of them final; {len(self._board.events)} events seen"
        return Text(told + " (of a job's progress the newest is shown)", style="dim")

    def _jobs(self, roomy: bool) -> RenderableType:
        lines: list[RenderableType] = []
        for act in ACTS:
            if lines and roomy:
                lines.append(Text(""))
            job = self._board.jobs.get(act.job_id)
            lines.extend(self._job(job) if job else (Text(act.job_id, style="dim"), Text("")))
        return Group(*lines)

    def _job(self, job: job_pb2.Job) -> tuple[RenderableType, RenderableType]:
        style = STATE_STYLES.get(job.state, "")
        head = Table.grid(expand=True)
        head.add_column(width=13)
        head.add_column(style="dim", ratio=1)
        head.add_column(justify="right")
        head.add_row(job.id, job.job_type, Text(state_name(job.state), style=style))
        tail = Table.grid(padding=(0, 1), expand=True)
        tail.add_column(width=BAR_WIDTH)
        tail.add_column(width=5, justify="right")
        tail.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(
            100, job.progress, BAR_WIDTH, complete_style=style, finished_style=style, style="bright_black"
        )
        tail.add_row(bar, f"{job.progress} %", Text(self._note(job), style="dim"))
        return head, tail

    def _note(self, job: job_pb2.Job) -> str:
        if phase(job) is Phase.WAITING:
            return (f"attempt {job.attempt} " if job.attempt else "") + "waits for a worker"
        match job.state:
            case job_pb2.JOB_STATE_RETRYING:
                wait = max(0.0, job.next_retry_time.ToNanoseconds() / 1e9 - time.time())
                return f"{job.last_error.code}, again in {wait:.1f} s"
            case job_pb2.JOB_STATE_PERMANENTLY_FAILED:
                return f"{job.last_error.code}, retries used up"
            case job_pb2.JOB_STATE_CANCELLED:
                return job.cancel_reason
            case job_pb2.JOB_STATE_COMPLETED:
                attempts = f" in {job.attempt} attempts" if job.attempt > 1 else ""
                return f"{job.result_count} results{attempts}"
        return self._note_of_work(job)

    def _note_of_work(self, job: job_pb2.Job) -> str:
        if job.id in self._board.notes:
            return self._board.notes[job.id]
        left = job.attempt_deadline.ToNanoseconds() / 1e9 - time.time()
        if job.HasField("attempt_deadline") and left < 2.0:
            return f"silent: times out in {max(0.0, left):.1f} s"
        return (job.progress_message or "at work") + (f", attempt {job.attempt}" if job.attempt > 1 else "")

    def _events(self, height: int) -> RenderableType:
        rows = Table.grid(padding=(0, 1))
        for width in (18, 12, 9):
            rows.add_column(width=width, no_wrap=True)
        for event in _newest(self._board.events, height - 2):
            kind = Text(event.name.removeprefix(PREFIX), style=KIND_STYLES.get(event.type, ""))
            dimmed = "dim" if event.type == event_pb2.EVENT_TYPE_PROGRESS else ""
            rows.add_row(kind, Text(event.job.id, style=dimmed), Text(detail(event), style="dim"))
        return Panel(rows, title="WatchEvents: processing-job.…", title_align="left", border_style="dim", height=height)


def _newest(events: list[event_pb2.Event], count: int) -> list[event_pb2.Event]:
    """The newest events, oldest first; of progress that nothing but progress of the same job follows, the last."""
    chosen: list[event_pb2.Event] = []
    reported: set[str] = set()
    for event in reversed(events):
        if event.type == event_pb2.EVENT_TYPE_PROGRESS:
            if event.job.id in reported:
                continue
            reported.add(event.job.id)
        chosen.append(event)
        if len(chosen) == count:
            break
    return chosen[::-1]


class Lines:
    """The same for a file or a pipe: a line for each event, of progress only the milestones."""

    def __init__(self, board: Overview, console: Console) -> None:
        self._board = board
        self._console = console
        self._progress: dict[str, int] = {}

    def __call__(self, event: event_pb2.Event) -> None:
        """Print an event."""
        job, told = event.job, detail(event)
        if event.type == event_pb2.EVENT_TYPE_PROGRESS:
            before, self._progress[job.id] = self._progress.get(job.id, 0), job.progress
            if not any(before < milestone <= job.progress for milestone in MILESTONES):
                return
            told = f"{job.progress:3} %  {'#' * (job.progress // 5):.<20}"
        elif event.type == event_pb2.EVENT_TYPE_FAILED:
            told = job.last_error.code
        elif event.type == event_pb2.EVENT_TYPE_CANCELLED:
            told = job.cancel_reason
        if event.type != event_pb2.EVENT_TYPE_PROGRESS:
            self._progress[job.id] = job.progress
        line = f"{self._board.elapsed:5.1f} s  {job.id:<13} {event.name.removeprefix(PREFIX):<19} {told}"
        self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)


def stats_table(stats: pb.GetStatsResponse, *, plain: bool) -> Table:
    """What GetStats says, by job type and in total."""
    table = Table(
        title="GetStats",
        title_justify="left",
        title_style="" if plain else "bold",
        box=None if plain else box.SIMPLE_HEAD,
        padding=(0, 1) if plain else 0,
        pad_edge=False,
        header_style="" if plain else "dim",
        show_footer=True,
    )
    total = _cells(stats.total)
    heads = ("job type", "completed", "permanently\nfailed", "cancelled", "retries", "success", "p95", "tokens", "cost")
    for head, foot in zip(heads, ("all", *total[1:]), strict=True):
        table.add_column(head, footer=foot, justify="left" if head == "job type" else "right", no_wrap=True)
    for of_type in stats.job_types:
        table.add_row(*_cells(of_type))
    return table


def _cells(stats: pb.JobTypeStats) -> tuple[str, ...]:
    return (
        stats.job_type,
        str(stats.completed),
        str(stats.permanently_failed),
        str(stats.cancelled),
        str(stats.retries),
        f"{stats.success_rate:.0%}" if stats.HasField("success_rate") else "–",
        f"{seconds(stats.duration_p95.ToTimedelta()):.1f} s" if stats.HasField("duration_p95") else "–",
        f"{stats.tokens:,}",
        f"{stats.cost:.2f}",
    )
