"""The tables of ``jobstate stats``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobstate_client.cli.terminal.output import Cell, Column, Output
from jobstate_client.core.states import State
from jobstate_client.views.text import count, short_span, span
from jobstate_client.views.work import work_of

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Stats, TypeStats

_LIVE = (State.QUEUED, State.PROCESSING, State.RETRYING, State.FAILED)
_FINAL = (State.COMPLETED, State.PERMANENTLY_FAILED, State.CANCELLED)

_WAITS = ("MEAN", "P50", "P95", "P99")
_DURATIONS = ("MEAN", "P50", "P95", "P99")
_SUMS = ("SUCCESS", "RETRIES", "RELEASED", "EXPIRED", "TOKENS", "COST")


def write_statistics(output: Output, statistics: Stats) -> None:
    """Write the statistics by job type and in total."""
    parts = [(name, statistics.job_types[name]) for name in sorted(statistics.job_types)] + [("all", statistics.total)]
    now = datetime.now(UTC)
    output.table(
        _heads("NOT FINAL", *_LIVE, "OLDEST"),
        [(name, *_counts(each, _LIVE), _oldest(each, now)) for name, each in parts],
    )
    output.text("")
    output.table(
        _heads("NOW", "WAITING", "OLDEST", "DELAYED", "NEEDS", "RUNNING"),
        [(name, *_work_cells(each, now)) for name, each in parts],
    )
    output.text("")
    output.table(_heads("FINAL, STILL STORED", *_FINAL), [(name, *_counts(each, _FINAL)) for name, each in parts])
    output.text("")
    others = sorted(state for state in statistics.total.stored if not state.is_known)
    if others:
        # States of a newer server.
        output.table(_heads("OTHER STATES", *others), [(name, *_counts(each, others)) for name, each in parts])
        output.text("")
    output.table(_heads("WAITED FOR A WORKER", *_WAITS), [(name, *_wait_cells(each)) for name, each in parts])
    output.text("")
    output.table(_heads("COMPLETED JOBS TOOK", *_DURATIONS), [(name, *_duration_cells(each)) for name, each in parts])
    output.text("")
    output.table(_heads("EVER", *_SUMS), [(name, *_sum_cells(each)) for name, each in parts])


def _heads(title: str, *numbers: str) -> list[Column]:
    return [Column(title), *(Column(head, right=True, whole=True) for head in numbers)]


def _counts(stats: TypeStats, states: Iterable[State]) -> Iterator[Cell]:
    for state in states:
        number = stats.stored.get(state, 0)
        yield Cell(count(number), "" if number else "dim")


def _oldest(stats: TypeStats, now: datetime) -> str:
    since = stats.oldest_queued_time
    return "" if since is None else short_span((now - since).total_seconds())


def _sum_cells(stats: TypeStats) -> Iterator[str]:
    yield "" if stats.success_rate is None else f"{stats.success_rate:.1%}"
    yield count(stats.retries)
    yield count(stats.released)
    yield count(stats.expired)
    yield count(stats.tokens)
    yield f"{stats.cost:,.2f}"


def _work_cells(stats: TypeStats, now: datetime) -> Iterator[str]:
    work = work_of(stats)
    if work is None:
        # An older server does not say.
        yield from ("", "", "", "", "")
        return
    since = work.oldest_ready_time
    yield count(work.waiting)
    yield "" if since is None else short_span((now - since).total_seconds())
    yield count(work.delayed)
    yield count(work.for_needs)
    yield count(work.running)


def _duration_cells(stats: TypeStats) -> Iterator[str]:
    yield span(stats.duration_mean)
    yield span(stats.duration_p50)
    yield span(stats.duration_p95)
    yield span(stats.duration_p99)


def _wait_cells(stats: TypeStats) -> Iterator[str]:
    yield span(stats.wait_mean)
    yield span(stats.wait_p50)
    yield span(stats.wait_p95)
    yield span(stats.wait_p99)
