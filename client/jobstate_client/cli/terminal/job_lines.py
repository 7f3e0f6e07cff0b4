"""The lines of the live views: a running job, a retry, an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from jobstate_client.cli.terminal.layout import GAP, Part, bar, fitted, line
from jobstate_client.cli.terminal.styles import EVENT_STYLES, STATE_STYLES
from jobstate_client.core.states import State
from jobstate_client.views.rows import EventRow, JobRow
from jobstate_client.views.text import clock


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths of the parts of a line about a job."""

    id: int
    job_type: int
    bar: int
    rest: int

    @classmethod
    def within(cls, width: int) -> Widths:
        """The widths that fit: a narrow terminal drops the job type first, and then shortens the bar."""
        id_ = 36 if width >= 130 else max(8, min(22, width * 29 // 100))
        job_type = 20 if width >= 100 else (14 if width >= 76 else 0)
        bar_ = 24 if width >= 130 else (12 if width >= 60 else 6)
        taken = id_ + GAP + (job_type + GAP if job_type else 0) + bar_ + GAP + 4 + GAP + 4 + GAP
        return cls(id_, job_type, bar_, max(0, width - taken))


def running_line(job: JobRow, width: int, now: datetime) -> Text:
    """A running job: id, type, bar, percentage, how long it has been running, and a note."""
    widths = Widths.within(width)
    style = STATE_STYLES[State.PROCESSING]
    text = line(*_id_and_type(job, widths))
    text.append(" " * GAP)
    for part in bar(job.progress, widths.bar, style):
        text.append(fitted(part), part.style)
    text.append(" " * GAP)
    text.append_text(
        line(
            Part(f"{job.progress}%", 4, style, right=True),
            Part(job.running_time(now), 4, "dim", right=True),
            Part(job.running_note(now), widths.rest),
        )
    )
    return text


def retry_line(job: JobRow, width: int, now: datetime) -> Text:
    """A job that waits for its next attempt: id, type, when it is due, which retry it is, and a note."""
    widths = Widths.within(width)
    return line(
        *_id_and_type(job, widths),
        Part(job.retry_due(now), 7, STATE_STYLES[State.RETRYING]),
        Part(job.next_attempt, widths.bar + 2, "dim"),
        Part(job.retry_note(now), max(0, widths.rest - 1)),
    )


def _id_and_type(job: JobRow, widths: Widths) -> Sequence[Part]:
    id_ = Part(job.id, widths.id, middle=True)
    return (id_, Part(job.job_type, widths.job_type, "dim")) if widths.job_type else (id_,)


def event_line(event: EventRow, width: int) -> Text:
    """An event: time, name, job, and its details."""
    job_type = 20 if width >= 110 else 0
    parts = [Part(clock(event.time), 9, "dim"), Part(event.name, 18, EVENT_STYLES.get(event.type, "dim"))]
    parts.append(Part(event.job_id, id_width(width), middle=True))
    if job_type:
        parts.append(Part(event.job_type, job_type, "dim"))
    return line(*parts, Part(event.summary, rest_width(parts, width), "dim"))


def id_width(width: int) -> int:
    """The width of a job's id in a line about an event."""
    return min(36, max(8, width * 28 // 100))


def rest_width(parts: Sequence[Part], width: int) -> int:
    """The width that these parts leave."""
    return max(0, width - sum(part.width + GAP for part in parts))
