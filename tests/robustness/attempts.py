"""Promises about attempts over recorded histories: none is used up while nobody works, and none is run by two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from .history import ANSWERED, REFUSED, LogEntry
from .world import HOLDS, World, claims

FOUND_BY_CLOCK = {"STALE", "ATTEMPT_TIMEOUT"}
"""Error codes of attempts that the server fails by itself."""

OWN_REASONS = {
    "TRANSITION_NOT_ALLOWED",
    "RETRY_NOT_ALLOWED",
    "ATTEMPT_SUPERSEDED",
    "ATTEMPT_REQUIRED",
    "JOB_NOT_FOUND",
    "JOB_EXISTS",
    "OVERLOADED",
    "STORE_UNAVAILABLE",
    "DRAINING",
}
"""Why an update that is as it should be may be refused: its job's state, or the server's."""

ITSELF, BESIDE = "itself", "beside"
"""``Call.poisoned`` of an update that cannot be accepted, and of one that was sent beside such an update."""


def retried(world: World) -> Iterator[str]:
    """No retry without an attempt: each retry is counted after an attempt that somebody had claimed, and only one.

    Nor is an attempt found stale or overdue that nobody had claimed.
    """
    for entries in world.by_job.values():
        claimed: set[int] = set()
        spent: set[int] = set()
        count = 0
        for entry in entries:
            if claims(entry):
                claimed.add(entry.attempt)
            code = entry.job.get("last_error", {}).get("code", "")
            if entry.event.type == "FAILED" and code in FOUND_BY_CLOCK:
                yield HOLDS if entry.attempt in claimed else f"{entry}: {code}, but nobody had claimed the attempt"
            now = entry.job.get("retry_count", count)
            if now > count:
                earned = now == count + 1 and entry.attempt in claimed - spent
                yield HOLDS if earned else f"{entry}: a retry was counted without an attempt"
                spent.add(entry.attempt)
            count = now


def exclusive(world: World) -> Iterator[str]:
    """No attempt is run by two: it is claimed once, and handed to one call of Start, and to its repeats."""
    taken: dict[tuple[str, int], list[LogEntry]] = defaultdict(list)
    for entry in world.history.log:
        if claims(entry):
            taken[entry.event.job_id, entry.attempt].append(entry)
    for key, entries in taken.items():
        yield HOLDS if len(entries) == 1 else f"attempt {key} was claimed by {entries}"
    started: dict[tuple[str, int], set[str]] = defaultdict(set)
    for index, call in enumerate(world.history.calls):
        if call.rpc == "Start" and call.outcome == ANSWERED:
            started[call.job_id, call.attempt].add(call.marker or call.request_id or f"call {index}")
    for key, callers in started.items():
        markers = {entry.marker for entry in taken[key] if entry.marker}
        own = len(callers) == 1 and (not markers or callers == markers)
        yield HOLDS if own else f"attempt {key} was handed to {sorted(callers)}, and claimed by {sorted(markers)}"


def innocent(world: World) -> Iterator[str]:
    """Innocent of others' updates: beside one that cannot be accepted others fare as by themselves.

    The poisoned one is refused by itself, for what is wrong with it.
    """
    for call in world.history.calls:
        if call.outcome == REFUSED and call.poisoned == BESIDE:
            yield HOLDS if call.reason in OWN_REASONS else f"{call}: refused for another's fault"
        elif call.poisoned == BESIDE:
            yield HOLDS
        elif call.poisoned == ITSELF:
            wrong = call.outcome == ANSWERED or (call.outcome == REFUSED and not call.reason)
            yield f"{call}: should have been refused, and why" if wrong else HOLDS
