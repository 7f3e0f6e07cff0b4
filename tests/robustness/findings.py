"""A promise about List over recorded histories: each filter finds the jobs that it asks for, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .history import FINAL_STATES
from .world import HOLDS, World, microseconds

Row = dict[str, Any]

SINCE, BEFORE = "complete_time_from", "complete_time_to"


def found(world: World) -> Iterator[str]:
    """In the end, when nothing changes, List with any filter gives what there is, and each job once."""
    for listing in world.history.listings:
        known, wanted = world.history.rows, listing.wanted
        matching = {job_id: row for job_id, row in known.items() if _matches(row, wanted)}
        got = set(listing.job_ids)
        right = _within_bounds(matching, wanted, got)
        holds = len(listing.job_ids) == len(got) and got == right
        yield HOLDS if holds else f"{wanted}: {len(got)} of {len(right)}, not alike in {sorted(got ^ right)[:5]}"


def _within_bounds(matching: dict[str, Row], wanted: Row, got: set[str]) -> set[str]:
    """Those that ended within the bounds.

    Bounds are by the wall clock, to which the server adds what the store's time is ahead of it: what that is changes
    with each call. So a bound may be later than was given, but nothing on the other side of any job that was found.
    """
    if not wanted.keys() & {SINCE, BEFORE}:
        return set(matching)
    ended = {job_id: microseconds(row["complete_time"]) for job_id, row in matching.items() if _is_over(row)}
    moments = [ended[job_id] for job_id in got & ended.keys()]
    if SINCE in wanted:
        since = max(microseconds(wanted[SINCE]), min(moments, default=max(ended.values(), default=0) + 1))
        ended = {job_id: moment for job_id, moment in ended.items() if moment >= since}
    if BEFORE in wanted:
        before = max(microseconds(wanted[BEFORE]), max(moments, default=0) + 1)
        ended = {job_id: moment for job_id, moment in ended.items() if moment < before}
    return set(ended)


def _is_over(row: Row) -> bool:
    return row["state"] in FINAL_STATES


def _matches(row: Row, wanted: Row) -> bool:
    return all(_CHECKS[name](row, value) for name, value in wanted.items() if name in _CHECKS)


_CHECKS: dict[str, Callable[[Row, Any], bool]] = {
    "labels": lambda row, labels: labels.items() <= row.get("labels", {}).items(),
    "states": lambda row, states: row["state"] in states,
    "source_id": lambda row, source_id: row.get("source_id", "") == source_id,
    "worker": lambda row, worker: row.get("worker", "") == worker,
    "error_code": lambda row, code: row.get("last_error", {}).get("code", "") == code,
    "wait_reasons": lambda row, reasons: row.get("wait_reason", "") in reasons,
}
