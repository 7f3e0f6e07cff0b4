"""Draws the overview of ``jobstate top``: exactly as many lines and columns as the terminal has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len
from rich.text import Text

from jobstate_client.cli.terminal.job_lines import event_line, retry_line, running_line
from jobstate_client.cli.terminal.layout import GAP, Part, heading, line
from jobstate_client.cli.terminal.styles import STATE_STYLES
from jobstate_client.core.states import State
from jobstate_client.views.overview import JobTypeRow, Overview
from jobstate_client.views.text import clock, count, safe, short_span, span

SIDE_BY_SIDE_MIN = 150
"""Columns from which events are shown beside the jobs; below that, they are shown under them."""

JOB_TYPE_MIN = 14
"""Columns that the name of a job type keeps; if there is no room, counts are left out."""

CONNECTION_MIN = 30
"""Columns of the header that the state of the connection keeps; a long address is cut."""

KEYS = "q quits"

HELD = "held back"

_STATES = (
    State.QUEUED,
    State.PROCESSING,
    State.RETRYING,
    State.FAILED,
    State.COMPLETED,
    State.PERMANENTLY_FAILED,
    State.CANCELLED,
)

_TYPE_COLUMNS = (
    ("QUEUED", 9),
    ("DELAYED", 8),
    ("PROCESSING", 10),
    ("RETRYING", 9),
    ("FAILED", 9),
    ("PERMANENTLY_FAILED", 18),
    ("SUCCESS", 7),
    ("WAIT P95", 8),
)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a terminal, or of a part of it."""

    width: int
    height: int


def frame(overview: Overview, size: Size, now: datetime, keys: str = KEYS) -> list[Text]:
    """The screen: ``size.height`` lines, none wider than ``size.width``."""
    top = [
        _header(overview, size.width, now, keys),
        *_outage(overview, size.width),
        *_counts(overview, size.width, now),
        *_work(overview, size.width, now),
        *_held(overview, size.width, now),
    ]
    rest = Size(size.width, max(0, size.height - len(top)))
    body = _side_by_side if size.width >= SIDE_BY_SIDE_MIN else _stacked
    return [_cropped(text, size.width) for text in [*top, *body(overview, rest, now)][: size.height]]


def _header(overview: Overview, width: int, now: datetime, keys: str) -> Text:
    right = f"{clock(now)}  {keys}".rstrip()
    left = f"jobstate  {safe(overview.server)}"
    left_width = min(cell_len(left), max(0, width - len(right) - CONNECTION_MIN))
    middle = max(0, width - left_width - len(right) - 2 * GAP - 1)
    texts = overview.connection_texts(now)
    connection = next((each for each in texts if cell_len(each) <= middle), texts[-1])
    style = "bold red" if overview.away_since is not None else ("green" if overview.is_live else "yellow")
    return line(
        Part(left, left_width, "bold"), Part("", 0), Part(connection, middle, style), Part(right, len(right), "dim")
    )


def _outage(overview: Overview, width: int) -> list[Text]:
    """While the server is away, a line that says why."""
    return [] if overview.away_since is None else [line(Part(overview.away_reason, width, "red"))]


def _counts(overview: Overview, width: int, now: datetime) -> list[Text]:
    """Two lines: the states, and the number of jobs in each."""
    is_old = overview.counts_are_old(now)
    names, numbers = [], []
    gap = 2 if width >= 80 else 1
    room = width
    for state in _STATES:
        number = overview.counts.get(state, 0)
        text = "–" if overview.counted is None else count(number)
        columns = max(len(state.value), len(text)) + gap - GAP
        if width >= SIDE_BY_SIDE_MIN:
            columns += 2
        columns = min(columns, max(0, room))
        room -= columns + GAP
        names.append(Part(state.value, columns, "dim"))
        style = "dim" if not number or is_old else STATE_STYLES[state].removeprefix("bold ") + " bold"
        numbers.append(Part(text, columns, style))
    return [line(*names), line(*numbers)]


def _work(overview: Overview, width: int, now: datetime) -> list[Text]:
    """One line: what waits and runs. The parts that do not fit are left out."""
    work = overview.work
    if work is None:
        return []
    oldest = ""
    if work.oldest_ready_time is not None:
        oldest = f", oldest {short_span((now - work.oldest_ready_time).total_seconds())}"
    parts = (
        ("waiting for a worker", f"{count(work.waiting)}{oldest}", work.waiting),
        ("delayed", count(work.delayed), work.delayed),
        *((("waiting for needs", count(work.for_needs), work.for_needs),) if work.for_needs else ()),
        ("expired", count(work.expired), work.expired),
        ("released", count(work.released), work.released),
        ("running", count(work.running), work.running),
    )
    text = Text(no_wrap=True, overflow="crop")
    for name, number, is_any in parts:
        gap = "  " if text else ""
        if text and text.cell_len + cell_len(f"{gap}{name} {number}") > width:
            break
        text.append(f"{gap}{name} ", "dim")
        text.append(number, "bold" if is_any and not overview.counts_are_old(now) else "dim")
    return [text]


def _held(overview: Overview, width: int, now: datetime) -> list[Text]:
    """One line, if there is anything to tell: which types are paused or at a limit, those with the most jobs first."""
    if not overview.held:
        return []
    told = "; ".join(f"{job_type} {text}" for job_type, text in overview.held.items())
    style = "dim" if overview.counts_are_old(now) else "yellow"
    return [line(Part(HELD, len(HELD), "dim"), Part(told, width - len(HELD) - GAP, style))]


def _cropped(text: Text, width: int) -> Text:
    text.truncate(width)
    return text


def _stacked(overview: Overview, size: Size, now: datetime) -> list[Text]:
    """Running jobs, next attempts and events below each other. Their heights never change."""
    next_attempts = max(2, size.height * 18 // 100)
    running = max(2, size.height * 45 // 100)
    events = size.height - next_attempts - running
    return [
        *_running(overview, Size(size.width, running), now),
        *_next_attempts(overview, Size(size.width, next_attempts), now),
        *_events(overview, Size(size.width, events)),
    ]


def _side_by_side(overview: Overview, size: Size, now: datetime) -> list[Text]:
    """Jobs on the left, job types and events on the right."""
    left = size.width * 52 // 100
    right = size.width - left - 3
    next_attempts = size.height * 30 // 100
    types = min(size.height, max(3, size.height * 30 // 100))
    left_lines = [
        *_running(overview, Size(left, size.height - next_attempts), now),
        *_next_attempts(overview, Size(left, next_attempts), now),
    ]
    right_lines = [*_job_types(overview, Size(right, types)), *_events(overview, Size(right, size.height - types))]
    return [_joined(one, other, left) for one, other in zip(left_lines, right_lines, strict=True)]


def _joined(one: Text, other: Text, width: int) -> Text:
    text = one.copy()
    text.pad_right(max(0, width - text.cell_len))
    text.append("   ")
    return text.append_text(other)


def _section(title: str, note: str, lines: Sequence[Text], size: Size) -> list[Text]:
    """A heading and the lines, filled or cut to the height."""
    drawn = [heading(title, note, size.width), *lines][: max(0, size.height)]
    return drawn + [line() for _ in range(size.height - len(drawn))]


def _running(overview: Overview, size: Size, now: datetime) -> list[Text]:
    shown = overview.running.all()[: max(0, size.height - 1)]
    title = overview.running_title(len(shown))
    return _section("Running", title, [running_line(job, size.width, now) for job in shown], size)


def _next_attempts(overview: Overview, size: Size, now: datetime) -> list[Text]:
    shown = overview.retrying.all()[: max(0, size.height - 1)]
    title = overview.next_attempts_title(len(shown))
    return _section("Next attempts", title, [retry_line(job, size.width, now) for job in shown], size)


def _events(overview: Overview, size: Size) -> list[Text]:
    room = max(0, size.height - 1)
    shown = list(overview.events)[-room:] if room else []
    return _section("Events", "newest last", [event_line(event, size.width) for event in shown], size)


def _job_types(overview: Overview, size: Size) -> list[Text]:
    columns = list(_TYPE_COLUMNS)
    for least in ("RETRYING", "WAIT P95", "SUCCESS", "FAILED", "DELAYED"):
        if sum(width + GAP for _, width in columns) + JOB_TYPE_MIN <= size.width:
            break
        columns = [column for column in columns if column[0] != least]
    name = max(0, size.width - sum(width + GAP for _, width in columns))
    head = line(Part("", name), *(Part(title, width, "dim", right=True) for title, width in columns))
    shown = overview.job_types[: max(0, size.height - 3)]
    lines = [head, *(_job_type(each, name, columns) for each in shown)]
    return _section("Job types", overview.job_types_title(len(shown)), lines, size)


def _job_type(each: JobTypeRow, name: int, columns: Sequence[tuple[str, int]]) -> Text:
    numbers = {
        "QUEUED": (each.queued, State.QUEUED),
        "DELAYED": (each.delayed, State.QUEUED),
        "PROCESSING": (each.processing, State.PROCESSING),
        "RETRYING": (each.retrying, State.RETRYING),
        "FAILED": (each.failed, State.FAILED),
        "PERMANENTLY_FAILED": (each.permanently_failed, State.PERMANENTLY_FAILED),
    }
    parts = [Part(each.name, name)]
    for title, width in columns:
        if title in numbers:
            number, state = numbers[title]
            shown = "" if number is None else count(number)
            parts.append(Part(shown, width, STATE_STYLES[state] if number else "dim", right=True))
        elif title == "SUCCESS":
            parts.append(Part("" if each.success_rate is None else f"{each.success_rate:.1%}", width, right=True))
        else:
            parts.append(Part(span(each.wait_p95), width, right=True))
    return line(*parts)
