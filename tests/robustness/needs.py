"""A promise about needs over recorded histories: a job begins when all that it needs is met, or is cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .history import FINAL_STATES, LogEntry
from .relations import Child, Relations, asked, is_met
from .world import HOLDS, World, microseconds

BY_NEED = "CANCEL_CAUSE_NEED"

WAITS_FOR_NEEDS = "WAIT_REASON_NEEDS"

LATE_US = 1_000_000
"""How much later than its time a delay may end."""


def needs_met(world: World) -> Iterator[str]:
    """P12: nothing is ready or begins before all that it needs is met, and a need cancels only when it cannot be.

    What is needed is there when the job is created, and is not deleted while that is unfinished.
    """
    relations = Relations(world)
    for entry in relations.events():
        event = entry.event
        if event.type == "QUEUED" and asked(entry).get("needs"):
            yield _created(world, relations, entry)
        elif event.type == "DELETED":
            unfinished = [child.queued for child in relations.needed_by(event.job_id) if child.end is None]
            yield f"{entry}: {unfinished[0]} needs it, and has not ended" if unfinished else HOLDS
        elif event.job_id in relations.children and event.type == "WAITING":
            yield _waits(relations.children[event.job_id], entry)
        elif event.job_id in relations.children and event.type in {"READY", "STARTED", "CLAIMED", "RELEASED"}:
            yield _begins(relations.children[event.job_id], entry)
        if event.type == "CANCELLED" and entry.job.get("cancel_cause") == BY_NEED:
            yield _cancelled(relations.children.get(event.job_id), entry)


def _created(world: World, relations: Relations, entry: LogEntry) -> str:
    """A need that was decided before is decided in the commit that creates the job."""
    needs = asked(entry)["needs"]
    found = relations.standing(needs)
    if found is None:
        return f"{entry} needs {needs}, of which not all are there"
    if found.impossible:
        after = world.entries.get(entry.event.sequence + 1)
        ended = after is not None and after.event.job_id == entry.event.job_id and after.event.type == "CANCELLED"
        return HOLDS if ended else f"{entry}: its needs on {found.impossible} cannot be met, and it was not cancelled"
    waits = entry.job.get("wait_reason") == WAITS_FOR_NEEDS
    return HOLDS if waits is bool(found.open) else f"{entry}: it waits for {found.open}, not as {entry.job}"


def _waits(child: Child, entry: LogEntry) -> str:
    """What a job with a delay waits for, as the event in between tells."""
    # Until it is told of the end of what it needs, it waits for that.
    waits = entry.job.get("wait_reason") == WAITS_FOR_NEEDS
    is_so = child.ready is None and (waits or not (child.open or child.impossible))
    return HOLDS if is_so else f"{entry}: its needs on {child.open} are open, and it waits as in {entry.job}"


def _begins(child: Child, entry: LogEntry) -> str:
    if child.open or child.impossible:
        return f"{entry}: needs on {child.open} are open, and those on {child.impossible} cannot be met"
    if entry.event.type == "READY" and child.ready is not None:
        return f"{entry}: it was ready since {child.ready}"
    is_told = child.ready is not None or child.queued.job.get("wait_reason") != WAITS_FOR_NEEDS
    return HOLDS if is_told or entry.event.type == "READY" else f"{entry}: nobody was told that it was ready"


def _cancelled(child: Child | None, entry: LogEntry) -> str:
    cause = entry.job.get("cancel_cause_id", "")
    if child is None or cause not in child.impossible:
        return f"{entry} was cancelled because of {cause}, which it does not need otherwise than that ended"
    told = entry.detail.get("cause_id", "")
    return HOLDS if told == cause else f"{entry}: it names {told}, and its job {cause}"


def resolved(world: World) -> Iterator[str]:
    """P12: no job waits for ever: once nothing is due any more, what has no open need is ready, or over.

    And each need has the outcome of the job that was needed.
    """
    history = world.history
    yield from history.left_due or [HOLDS]
    if history.settled:
        for job_id, child in Relations(world).at(history.settled).children.items():
            yield _settled(world, job_id, child)
    finals = {entry.event.job_id: entry.event.state for entry in history.log if entry.event.state in FINAL_STATES}
    for job_id, answers in history.needs.items():
        for answer in answers:
            yield _answered(finals, job_id, answer)


def _settled(world: World, job_id: str, child: Child) -> str:
    if not child.resolved or child.end is not None:
        return HOLDS
    if child.impossible:
        return f"{job_id} is not cancelled, though it cannot begin since {child.resolved}: {child.impossible}"
    told = child.ready is not None or child.queued.job.get("wait_reason") != WAITS_FOR_NEEDS
    now = world.entries[world.history.settled].time
    job = child.queued.job
    is_delayed = microseconds(job["ready_time"]) > max(microseconds(job["create_time"]), now - LATE_US)
    return HOLDS if told or is_delayed else f"{job_id} is not ready, though all is met since {child.resolved}"


def _answered(finals: dict[str, str], job_id: str, answer: dict[str, Any]) -> str:
    """What Get says of a need: of one that is not resolved it says nothing."""
    if "state" not in answer:
        return f"{job_id}: {answer} is met by nothing" if answer.get("met") else HOLDS
    ended = finals.get(answer["job_id"])
    right = ended is not None and answer["state"] == ended and answer["met"] is is_met(answer["condition"], ended)
    return HOLDS if right else f"{job_id}: {answer}, which ended {ended}"
