"""Lines of exactly as many columns as there are, whatever the texts: what the live views are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from jobstate_client.cli.terminal.output import STYLES
from jobstate_client.core.states import EventType, State
from jobstate_client.views.phase import Phase
from jobstate_client.views.rows import EventRow, JobRow
from jobstate_client.views.text import clock, short_span

GAP = 1
"""Columns between two parts of a line."""

UNCHANGED_AFTER = timedelta(minutes=1)
"""Time without an event after which a running job is marked. Its worker may still be heard of: see stale_threshold."""

DEADLINE_NEAR = timedelta(seconds=10)
"""Time before its timeout from which a running job is marked."""

EVENT_STYLES = {
    EventType.QUEUED: STYLES[State.QUEUED],
    EventType.STARTED: STYLES[State.PROCESSING],
    EventType.CLAIMED: STYLES[State.PROCESSING],
    EventType.PROGRESS: "dim",
    EventType.COMPLETED: STYLES[State.COMPLETED],
    EventType.FAILED: STYLES[State.FAILED],
    EventType.RETRYING: STYLES[State.RETRYING],
    EventType.PERMANENTLY_FAILED: STYLES[State.PERMANENTLY_FAILED],
    EventType.CANCELLED: STYLES[State.CANCELLED],
    EventType.STALE_DETECTED: STYLES[State.RETRYING],
    EventType.DELETED: "dim",
    EventType.USAGE: "dim",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A text, the columns that it gets, and its style."""

    text: str
    width: int
    style: str = ""
    right: bool = False
    middle: bool = False
    """Whether a text that is too long loses its middle instead of its end: ids differ there the least."""


def fitted(part: Part) -> str:
    """The text of a part in exactly its columns."""
    width = max(0, part.width)
    length = cell_len(part.text)
    if length <= width:
        blank = " " * (width - length)
        return blank + part.text if part.right else part.text + blank
    if width <= 1:
        return "…"[:width]
    if part.middle:
        tail = (width - 1) // 2
        end = part.text
        while cell_len(end) > tail:
            end = end[1:]
        return set_cell_size(part.text, width - 1 - cell_len(end)) + "…" + end
    return set_cell_size(part.text, width - 1) + "…"


def line(*parts: Part, gap: int = GAP) -> Text:
    """The parts beside each other."""
    text = Text(no_wrap=True, overflow="crop")
    for index, part in enumerate(parts):
        if index:
            text.append(" " * gap)
        text.append(fitted(part), part.style)
    return text


def heading(title: str, told: str, width: int) -> Text:
    """The line above a part of the screen."""
    told = f" {told} " if told else " "
    rule = "─" * max(0, width - cell_len(title) - cell_len(told))
    return line(
        Part(title, min(width, cell_len(title)), "bold"), Part((told + rule)[1:], width - cell_len(title) - GAP, "dim")
    )


def bar(percent: int, width: int, style: str) -> tuple[Part, ...]:
    """A bar, as parts without a gap between them."""
    full = min(width, max(0, round(width * percent / 100)))
    return Part("━" * full, full, style), Part("─" * (width - full), width - full, "dim")


@dataclass(frozen=True, slots=True)
class Widths:
    """Columns of the parts of a line about a job."""

    id: int
    job_type: int
    bar: int
    rest: int

    @classmethod
    def within(cls, width: int) -> Widths:
        """As many as fit: a narrow terminal loses the type first, then the bar."""
        id_ = 36 if width >= 130 else max(8, min(22, width * 29 // 100))
        job_type = 20 if width >= 100 else (14 if width >= 76 else 0)
        bar_ = 24 if width >= 130 else (12 if width >= 60 else 6)
        taken = id_ + GAP + (job_type + GAP if job_type else 0) + bar_ + GAP + 4 + GAP + 4 + GAP
        return cls(id_, job_type, bar_, max(0, width - taken))


def running_line(job: JobRow, width: int, now: datetime) -> Text:
    """A running job: id, type, bar, percentage, how long its worker has been at it, what it says."""
    widths = Widths.within(width)
    style = STYLES[State.PROCESSING]
    age = "" if job.claim_time is None else short_span((now - job.claim_time).total_seconds())
    text = line(*_named(job, widths))
    text.append(" " * GAP)
    for part in bar(job.progress, widths.bar, style):
        text.append(fitted(part), part.style)
    text.append(" " * GAP)
    text.append_text(
        line(
            Part(f"{job.progress}%", 4, style, right=True),
            Part(age, 4, "dim", right=True),
            Part(_running_note(job, now), widths.rest),
        )
    )
    return text


def _named(job: JobRow, widths: Widths) -> Sequence[Part]:
    id_ = Part(job.id, widths.id, middle=True)
    return (id_, Part(job.job_type, widths.job_type, "dim")) if widths.job_type else (id_,)


def _running_note(job: JobRow, now: datetime) -> str:
    notes = []
    if job.deadline is not None and now < job.deadline <= now + DEADLINE_NEAR:
        notes.append(f"times out in {short_span((job.deadline - now).total_seconds())}")
    if job.update_time is not None and now - job.update_time >= UNCHANGED_AFTER:
        notes.append(f"unchanged for {short_span((now - job.update_time).total_seconds())}")
    if job.attempt > 1:
        notes.append(f"attempt {job.attempt}")
    if job.message:
        notes.append(job.message)
    return ", ".join(notes)


def retry_line(job: JobRow, width: int, now: datetime) -> Text:
    """A job whose retry is to come, or waits for a worker: id, type, when, which, why."""
    widths = Widths.within(width)
    wait = 0.0 if job.next_retry_time is None else (job.next_retry_time - now).total_seconds()
    due = f"in {short_span(wait + 0.999)}" if wait > 0 else "due"
    note = job.error
    if job.phase is Phase.WAITING:
        waited = "" if job.start_time is None else f"{short_span((now - job.start_time).total_seconds())} "
        note = f"waits {waited}for a worker" + (f", {job.error}" if job.error else "")
    return line(
        *_named(job, widths),
        Part(due, 7, STYLES[State.RETRYING]),
        Part(f"retry {job.retry_count} of {job.max_retries}", widths.bar + 2, "dim"),
        Part(note, max(0, widths.rest - 1)),
    )


def event_line(event: EventRow, width: int) -> Text:
    """An event: when, what, of which job, and what it tells."""
    id_ = min(36, max(8, width * 28 // 100))
    job_type = 20 if width >= 110 else 0
    parts = [Part(clock(event.time), 9, "dim"), Part(event.kind, 18, EVENT_STYLES.get(event.type, ""))]
    parts.append(Part(event.job_id, id_, middle=True))
    if job_type:
        parts.append(Part(event.job_type, job_type, "dim"))
    taken = sum(part.width + GAP for part in parts)
    return line(*parts, Part(event.told, max(0, width - taken), "dim"))
