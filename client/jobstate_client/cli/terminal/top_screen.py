"""The picture of ``jobstate top``: what the board knows, as exactly so many lines of so many columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.cells import cell_len
from rich.text import Text

from jobstate_client.cli.terminal.layout import GAP, Part, event_line, heading, line, retry_line, running_line
from jobstate_client.cli.terminal.output import STYLES
from jobstate_client.core.states import State
from jobstate_client.views.overview import JOBS_KEPT_MAX, JobTypeRow, Overview
from jobstate_client.views.phase import Phase
from jobstate_client.views.text import clock, count, safe, short_span, span

SIDE_BY_SIDE_MIN = 150
"""Columns from which events stand beside the jobs; below it they stand under them."""

COUNTS_OLD_AFTER = timedelta(seconds=10)
"""Age from which counts are marked as old: several refreshes have failed by then."""

JOB_TYPE_MIN = 14
"""Columns that the name of a job type keeps; where there is no room, counts give way."""

HEADER_MIDDLE_MIN = 30
"""Columns of the header that are kept for how the connection is; a long address gives way."""

KEYS = "q quits"

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
    ("PROCESSING", 10),
    ("RETRYING", 9),
    ("FAILED", 9),
    ("PERMANENTLY_FAILED", 18),
    ("SUCCESS", 7),
    ("WAIT P95", 8),
)


@dataclass(frozen=True, slots=True)
class Size:
    """Of a terminal, or of a part of it."""

    width: int
    height: int


def frame(board: Overview, size: Size, now: datetime) -> list[Text]:
    """The picture: ``size.height`` lines, none wider than ``size.width``."""
    top = [_header(board, size.width, now), *_trouble(board, size.width), *_counts(board, size.width, now)]
    rest = Size(size.width, max(0, size.height - len(top)))
    body = _beside(board, rest, now) if size.width >= SIDE_BY_SIDE_MIN else _below(board, rest, now)
    return [_cropped(line, size.width) for line in [*top, *body][: size.height]]


def _header(board: Overview, width: int, now: datetime) -> Text:
    right = f"{clock(now)}  {KEYS}"
    left = f"jobstate  {safe(board.server)}"
    left_width = min(cell_len(left), max(0, width - len(right) - HEADER_MIDDLE_MIN))
    middle = max(0, width - left_width - len(right) - 2 * GAP - 1)
    told, style = _connection(board, now)
    chosen = next((each for each in told if cell_len(each) <= middle), told[-1])
    return line(
        Part(left, left_width, "bold"), Part("", 0), Part(chosen, middle, style), Part(right, len(right), "dim")
    )


def _connection(board: Overview, now: datetime) -> tuple[Sequence[str], str]:
    """How the connection is, from the longest way of saying it to the shortest."""
    if board.away_since is not None:
        again = "reconnecting" if board.was_there else "connecting"
        since = f"{again} since {clock(board.away_since)}"
        return (f"{since} ({short_span((now - board.away_since).total_seconds())})", since), "bold red"
    if not board.is_live:
        return ("reading the jobs …",), "yellow"
    return (f"live, {board.rate(now):,.1f} events/s", "live"), "green"


def _trouble(board: Overview, width: int) -> list[Text]:
    """A line that says why the server is away, while it is."""
    return [] if board.away_since is None else [line(Part(board.away_for, width, "red"))]


def _counts(board: Overview, width: int, now: datetime) -> list[Text]:
    """Two lines: the states, and under each how many jobs are in it."""
    is_old = board.counted is not None and now - board.counted > COUNTS_OLD_AFTER
    names, numbers = [], []
    gap = 2 if width >= 80 else 1
    room = width
    for state in _STATES:
        number = board.counts.get(state, 0)
        told = "–" if board.counted is None else count(number)
        columns = max(len(state.value), len(told)) + gap - GAP
        if width >= SIDE_BY_SIDE_MIN:
            columns += 2
        columns = min(columns, max(0, room))
        room -= columns + GAP
        names.append(Part(state.value, columns, "dim"))
        style = "dim" if not number or is_old else STYLES[state].removeprefix("bold ") + " bold"
        numbers.append(Part(told, columns, style))
    return [line(*names), line(*numbers)]


def _cropped(text: Text, width: int) -> Text:
    text.truncate(width)
    return text


def _below(board: Overview, size: Size, now: datetime) -> list[Text]:
    """One under the other: running, retries, events, each with a share of the height that never changes."""
    retries = max(2, size.height * 18 // 100)
    running = max(2, size.height * 45 // 100)
    events = size.height - retries - running
    return [
        *_running(board, Size(size.width, running), now),
        *_retries(board, Size(size.width, retries), now),
        *_events(board, Size(size.width, events)),
    ]


def _beside(board: Overview, size: Size, now: datetime) -> list[Text]:
    """Jobs at the left, job types and events at the right."""
    left = size.width * 52 // 100
    right = size.width - left - 3
    retries = size.height * 30 // 100
    types = min(size.height, max(3, size.height * 30 // 100))
    at_left = [
        *_running(board, Size(left, size.height - retries), now),
        *_retries(board, Size(left, retries), now),
    ]
    at_right = [*_job_types(board, Size(right, types)), *_events(board, Size(right, size.height - types))]
    return [_side_by_side(one, other, left) for one, other in zip(at_left, at_right, strict=True)]


def _side_by_side(one: Text, other: Text, width: int) -> Text:
    text = one.copy()
    text.pad_right(max(0, width - text.cell_len))
    text.append("   ")
    return text.append_text(other)


def _section(title: str, told: str, lines: Sequence[Text], size: Size) -> list[Text]:
    """A heading and the lines, filled up or cut to the height."""
    drawn = [heading(title, told, size.width), *lines][: max(0, size.height)]
    return drawn + [line() for _ in range(size.height - len(drawn))]


def _running(board: Overview, size: Size, now: datetime) -> list[Text]:
    jobs = board.running.all()
    shown = jobs[: max(0, size.height - 1)]
    told = _of(len(shown), len(jobs), board.counts.get(State.PROCESSING, 0) - _waiting(board))
    return _section("Running", told, [running_line(job, size.width, now) for job in shown], size)


def _retries(board: Overview, size: Size, now: datetime) -> list[Text]:
    jobs = board.retrying.all()
    shown = jobs[: max(0, size.height - 1)]
    waiting = _waiting(board)
    told = _of(len(shown), len(jobs), board.counts.get(State.RETRYING, 0) + waiting)
    if waiting:
        told += f", {count(waiting)} waiting for a worker"
    return _section("Retries", told, [retry_line(job, size.width, now) for job in shown], size)


def _waiting(board: Overview) -> int:
    """How many retries are due and wait for a worker. Their state is PROCESSING already."""
    return sum(job.phase is Phase.WAITING for job in board.retrying.all())


def _of(shown: int, known: int, counted: int) -> str:
    """How many of how many are shown. Beyond those that are kept, only the server's count knows of more."""
    number = max(known, counted) if known >= JOBS_KEPT_MAX else known
    return f"{count(shown)} of {count(number)}" if number > shown else count(number)


def _events(board: Overview, size: Size) -> list[Text]:
    room = max(0, size.height - 1)
    shown = list(board.events)[-room:] if room else []
    return _section("Events", "newest last", [event_line(event, size.width) for event in shown], size)


def _job_types(board: Overview, size: Size) -> list[Text]:
    columns = list(_TYPE_COLUMNS)
    for least in ("WAIT P95", "RETRYING", "SUCCESS", "FAILED"):
        if sum(width + GAP for _, width in columns) + JOB_TYPE_MIN <= size.width:
            break
        columns = [column for column in columns if column[0] != least]
    name = max(0, size.width - sum(width + GAP for _, width in columns))
    head = line(Part("", name), *(Part(title, width, "dim", right=True) for title, width in columns))
    shown = board.job_types[: max(0, size.height - 3)]
    number = len(board.job_types) + board.job_types_left_out
    told = f"{count(len(shown))} of {count(number)}" if number > len(shown) else count(number)
    return _section("Job types", told, [head, *(_job_type(each, name, columns) for each in shown)], size)


def _job_type(each: JobTypeRow, name: int, columns: Sequence[tuple[str, int]]) -> Text:
    numbers = {
        "QUEUED": (each.queued, State.QUEUED),
        "PROCESSING": (each.processing, State.PROCESSING),
        "RETRYING": (each.retrying, State.RETRYING),
        "FAILED": (each.failed, State.FAILED),
        "PERMANENTLY_FAILED": (each.permanently_failed, State.PERMANENTLY_FAILED),
    }
    parts = [Part(each.name, name)]
    for title, width in columns:
        if title in numbers:
            number, state = numbers[title]
            parts.append(Part(count(number), width, STYLES[state] if number else "dim", right=True))
        elif title == "SUCCESS":
            parts.append(Part("" if each.success_rate is None else f"{each.success_rate:.1%}", width, right=True))
        else:
            parts.append(Part(span(each.wait_p95), width, right=True))
    return line(*parts)
