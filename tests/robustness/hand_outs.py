"""Promises about what Acquire hands out, over recorded histories: nothing to two, and a lost answer costs nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from .history import ANSWERED, Acquiring, Answer, LogEntry
from .world import HOLDS, World

STILL_RUNNING = {"PROGRESS", "USAGE", "STALE_DETECTED"}
"""Events after which the attempt still has its worker."""

NOT_DELIVERED = "not delivered"
"""The reason of a release by the server, of what an Acquire could not deliver."""


def handed_once(world: World) -> Iterator[str]:
    """P1: no attempt is handed to two callers: what an Acquire was told, the log has claimed for it, and for no other.

    Nor was a Start told that it has it.
    """
    claimed = {(e.event.job_id, e.attempt): e for entries in world.hand_outs.values() for e in entries}
    receivers: dict[tuple[str, int], set[str]] = defaultdict(set)
    for call in world.history.acquires:
        for answer in call.answers:
            for job in answer.jobs:
                receivers[job].add(call.worker)
    for start in world.history.calls:
        if start.rpc == "Start" and start.outcome == ANSWERED and (start.job_id, start.attempt) in claimed:
            receivers[start.job_id, start.attempt].add(f"Start {start.marker}")
    for job, workers in receivers.items():
        entry = claimed.get(job)
        holds = entry is not None and workers == {entry.job.get("worker", "")}
        yield HOLDS if holds else f"{job} was given to {sorted(workers)}, and the log has {entry}"


def repeatable(world: World) -> Iterator[str]:
    """P9: a lost answer costs nothing: a call of Acquire hands out once, and each answer has what is still claimed."""
    for call in world.history.acquires:
        entries = world.hand_outs.get(call.worker, [])
        # Once one of its jobs is erased, so is its request id: what was a repeat is a new call.
        is_forgotten = any(world.by_job[entry.event.job_id][-1].is_erased for entry in entries)
        if (call.request_id and not is_forgotten) or call.tries == 1:
            sequences = [entry.event.sequence for entry in entries]
            at_once = not sequences or sequences == list(range(sequences[0], sequences[0] + len(sequences)))
            yield HOLDS if at_once else f"{call} claimed jobs more than once: {sequences}"
            yield HOLDS if len(entries) <= max(1, call.max_jobs) else f"{call} got {len(entries)} jobs"
            for answer in call.answers:
                yield from _answered(world, call, entries, answer)
        yield from _taken_back(world, call, entries)


def _answered(world: World, call: Acquiring, entries: list[LogEntry], answer: Answer) -> Iterator[str]:
    got = [job for job in ((e.event.job_id, e.attempt) for e in entries) if job in answer.jobs]
    yield HOLDS if got == answer.jobs else f"{call}: answered {answer}, the log has {[str(entry) for entry in entries]}"
    for entry in entries:
        end = _end(world, entry)
        if (entry.event.job_id, entry.attempt) not in answer.jobs:
            # It had ended when the answer was made, or this try found nothing, and another did: a later one, or one
            # that was given up and carried out late.
            over = end is not None and world.not_before[end.event.sequence] <= answer.returned
            is_last = call.tries == len(call.answers) and answer is call.answers[-1]
            known = world.known_by[entry.event.sequence] < answer.invoked
            later = not (answer.jobs or is_last or known)
            yield HOLDS if over or later else f"{call}: {answer} is without {entry}, which had not ended"
        elif end is not None:
            over = world.known_by[end.event.sequence] < answer.invoked
            yield f"{call}: {answer} has {entry}, which had ended" if over else HOLDS


def _end(world: World, claim: LogEntry) -> LogEntry | None:
    """The event that ends an attempt."""
    for entry in world.by_job[claim.event.job_id]:
        if entry.event.sequence > claim.event.sequence and entry.event.type not in STILL_RUNNING:
            return entry
    return None


def _taken_back(world: World, call: Acquiring, entries: list[LogEntry]) -> Iterator[str]:
    """The server takes back only what nobody got, and nobody can ask for again."""
    told = {job for answer in call.answers for job in answer.jobs}
    for entry in entries:
        end = _end(world, entry)
        if end is not None and end.event.type == "RELEASED" and end.detail.get("reason") == NOT_DELIVERED:
            lost = (entry.event.job_id, entry.attempt) not in told and not call.request_id
            yield HOLDS if lost else f"{call} was given {entry}, which the server took back"
