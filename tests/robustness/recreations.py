"""Promises about jobs that are made from ended ones, and about changes of many jobs, over recorded histories."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from .history import ANSWERED, FINAL_STATES, REFUSED, Bulk, Call, LogEntry
from .world import HOLDS, World, folded, is_group

TERMS = (
    "job_type",
    "source_id",
    "metadata",
    "max_retries",
    "timeout",
    "priority",
    "lane",
    "start_within",
    "labels",
    "unique_key",
)
"""What a recreated job has from the one that it was made from."""

LEFT_OUT = ("attempt", "retry_count", "estimated_tokens", "group_id", "group", "worker", "last_error", "complete_time")
"""What it begins without."""


def is_recreated(entry: LogEntry) -> bool:
    """Whether a job was made from another with this event."""
    return entry.event.type == "QUEUED" and "recreated_from" in entry.job


def recreated(world: World) -> Iterator[str]:
    """A job is recreated from one that has ended, with its terms, and once for each request id or call that asks.

    That no job follows its end is ``whole``. Once a recreated job is erased, so is the request id that made it, and a
    repeat makes another.
    """
    latest: dict[str, LogEntry] = {}
    jobs: dict[str, dict[str, Any]] = {}
    made: dict[str, list[LogEntry]] = defaultdict(list)
    for entry in world.history.log:
        job_id = entry.event.job_id
        if is_recreated(entry):
            old_id = entry.job["recreated_from"]
            made[old_id].append(entry)
            yield _wrong_terms(entry, latest.get(old_id), jobs.get(old_id, {}))
        if entry.event.type == "DELETED":
            latest.pop(job_id, None)
        else:
            latest[job_id] = entry
            jobs[job_id] = folded(jobs.get(job_id) if entry.event.type != "QUEUED" else None, entry.job)
    asked = _asked_for(world)
    for old_id, entries in made.items():
        allowed = asked[old_id] + sum(
            bulk.rpc == "RecreateMany" and _may_match(world, bulk, old_id) for bulk in _sent(world)
        )
        erased = sum(_is_erased(world, entry.event.job_id) for entry in entries)
        few = len(entries) <= allowed + erased
        yield (
            HOLDS
            if few
            else f"{old_id} was recreated as {[str(e) for e in entries]}, and {allowed} calls asked for that"
        )
    yield from _answered(world)


def _wrong_terms(entry: LogEntry, old: LogEntry | None, job: dict[str, Any]) -> str:
    if old is None or old.event.state not in FINAL_STATES or is_group(old):
        return f"{entry} was made from {entry.job['recreated_from']}, which had not ended: {old}"
    other = [name for name in TERMS if (entry.job.get(name) or None) != (job.get(name) or None)]
    kept = [name for name in LEFT_OUT if entry.job.get(name)]
    is_ready = entry.job["ready_time"] == entry.job["create_time"] and entry.event.state == "QUEUED"
    holds = not other and not kept and is_ready
    return HOLDS if holds else f"{entry}: it differs in {other}, has {kept}, from {old}"


def _asked_for(world: World) -> Counter[str]:
    """How many jobs calls of Recreate may have made from each."""
    by_id = {
        (call.names[0], call.request_id or str(index))
        for index, call in enumerate(world.history.calls)
        if call.rpc == "Recreate" and not _was_refused(call)
    }
    return Counter(old_id for old_id, _ in by_id)


def _was_refused(call: Call) -> bool:
    return call.outcome == REFUSED and call.tries == 1


def _is_erased(world: World, job_id: str) -> bool:
    return any(entry.is_erased for entry in world.by_job.get(job_id, ()))


def _answered(world: World) -> Iterator[str]:
    """What Recreate answered is there, made from that job; and the same for each request id."""
    found: dict[str, set[str]] = defaultdict(set)
    for call in world.history.calls:
        if call.rpc == "Recreate" and call.outcome == ANSWERED:
            first = world.by_job.get(call.job_id, [None])[0]
            if first is None:
                yield f"{call}: the log has no such job"
                continue
            old = world.by_job.get(call.names[0], [first])[0]
            key = old.job.get("unique_key")
            is_holder = call.existing and bool(key) and first.job.get("unique_key") == key
            # A repeat does not tell whether the first call made the job.
            holds = is_holder or first.job.get("recreated_from") == call.names[0] or bool(key)
            yield HOLDS if holds else f"{call}: it was made otherwise, in {first}"
            if call.request_id:
                found[call.request_id].add(call.job_id)
    for request_id, job_ids in found.items():
        left = [job_id for job_id in job_ids if not _is_erased(world, job_id)]
        yield HOLDS if len(left) <= 1 else f"{request_id} made {sorted(left)}"


def _sent(world: World) -> list[Bulk]:
    """The bulk runs that may have done something."""
    return [bulk for bulk in world.history.bulks if bulk.answers or bulk.outcome != REFUSED]


def _may_match(world: World, bulk: Bulk, job_id: str) -> bool:
    """Whether a bulk run may recreate a job, by what it is since its end."""
    end = next((entry for entry in world.by_job.get(job_id, ()) if entry.event.state in FINAL_STATES), None)
    return (
        end is not None
        and bulk.fits(end)
        and (not bulk.states or end.event.state in bulk.states)
        and bulk.worker in ("", end.job.get("worker", ""))
        and bulk.error_code in ("", end.job.get("last_error", {}).get("code", ""))
    )


def in_bulk(world: World) -> Iterator[str]:
    """A bulk run changes each job that it matches once, whoever goes on with it and whenever, and counts it right.

    What had ended before its first call is recreated by its end, and what had not ended is cancelled. What it makes is
    not among what it changes.
    """
    made: dict[str, list[LogEntry]] = defaultdict(list)
    cancelled: dict[str, list[LogEntry]] = defaultdict(list)
    for entry in world.history.log:
        if is_recreated(entry):
            made[entry.job["recreated_from"]].append(entry)
        elif entry.event.type == "CANCELLED" and entry.marker:
            cancelled[entry.marker].append(entry)
    for bulk in _sent(world):
        yield from _well_told(bulk)
        if bulk.rpc == "CancelMany":
            yield from _cancels(world, bulk, cancelled[bulk.marker])
        elif bulk.is_alone:
            yield from _recreates(world, bulk, made)


def _well_told(bulk: Bulk) -> Iterator[str]:
    for answer in bulk.answers:
        holds = answer.matched == answer.done + answer.skipped and (not bulk.limit or answer.done <= bulk.limit)
        yield HOLDS if holds else f"{bulk}: {answer} does not add up"
    for before, after in pairwise(bulk.answers):
        if before.returned <= after.invoked:
            grows = after.matched >= before.matched and after.done >= before.done
            same = before.more or (before.matched, before.done) == (after.matched, after.done)
            yield HOLDS if grows and same else f"{bulk.rpc} {bulk.request_id}: {after} came after {before}"


def _counted(bulk: Bulk, entries: list[LogEntry]) -> str:
    """Whether as many were changed as was told: in the end exactly so many."""
    told = max((answer.done for answer in bulk.answers), default=0)
    right = len(entries) == told if bulk.is_over else len(entries) >= told
    fits = not bulk.limit or len(entries) <= bulk.limit
    return HOLDS if right and fits else f"{bulk}: the log has {len(entries)}, the first {[str(e) for e in entries[:5]]}"


def _is_whole(bulk: Bulk) -> bool:
    """Whether all that matched must have been changed."""
    return bulk.is_over and not any(answer.limit_reached for answer in bulk.answers)


def _recreates(world: World, bulk: Bulk, made: dict[str, list[LogEntry]]) -> Iterator[str]:
    wanted = [entries for entries in world.by_job.values() if bulk.fits(entries[0])]
    yield _counted(bulk, [entry for entries in wanted for entry in made[entries[0].event.job_id]])
    known = world.known_at(bulk.invoked)
    for entries in wanted:
        job_id = entries[0].event.job_id
        count = len(made[job_id])
        again = "recreated_from" in entries[0].job
        yield HOLDS if count <= (0 if again else 1) else f"{bulk.rpc} {bulk.request_id}: {made[job_id]} of {entries[0]}"
        end = next((entry for entry in entries if entry.event.state in FINAL_STATES), None)
        gone = entries[-1].event.type == "DELETED" or is_group(entries[0]) or "unique_key" in entries[0].job
        due = end is not None and end.event.sequence <= known and not (gone or again)
        if due and _is_whole(bulk) and _may_match(world, bulk, job_id):
            yield HOLDS if count else f"{bulk.rpc} {bulk.request_id} has left out {end}"


def _cancels(world: World, bulk: Bulk, entries: list[LogEntry]) -> Iterator[str]:
    yield _counted(bulk, entries)
    for entry in entries:
        yield HOLDS if bulk.fits(entry) else f"{bulk}: it has cancelled {entry}"
    if not _is_whole(bulk) or bulk.limit:
        return
    known, over = world.known_at(bulk.invoked), next(answer for answer in bulk.answers if not answer.more)
    for some in world.by_job.values():
        if some[0].event.sequence <= known and bulk.fits(some[0]):
            end = next((entry for entry in some if entry.event.state in FINAL_STATES), None)
            ended = end is not None and world.not_before[end.event.sequence] <= over.returned
            yield HOLDS if ended else f"{bulk.rpc} {bulk.request_id} has left {some[0]}, which ended with {end}"
