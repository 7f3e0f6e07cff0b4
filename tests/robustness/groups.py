"""Promises about groups over recorded histories: a group ends once, after its members, and adds them up right."""

from __future__ import annotations

from collections.abc import Iterator

from .history import ANSWERED, REFUSED, LogEntry
from .relations import Members, Relations, asked
from .world import HOLDS, World, is_group, is_hand_out

BY_GROUP = "CANCEL_CAUSE_GROUP"

OF_GROUPS = {"QUEUED", "STARTED", "PROGRESS", "COMPLETED", "FAILED", "PERMANENTLY_FAILED", "CANCELLED", "DELETED"}
"""What may happen to a group."""

VERDICTS = {"COMPLETED", "PERMANENTLY_FAILED"}

PROGRESS_US = 1_000_000
"""A group reports its progress this often at most."""

COUNTED = {"completed": "COMPLETED", "permanently_failed": "PERMANENTLY_FAILED", "cancelled": "CANCELLED"}


def ends_last(world: World) -> Iterator[str]:
    """P13: a group ends by itself after all its members, with the right verdict, and takes no members afterwards.

    Who calls Cancel decides at once. Once nothing is due any more, a group that is closed or stopping and has no
    unfinished members has ended. What is added by an attempt is added while that runs.
    """
    relations = Relations(world)
    closings = _closings(world)
    reported: dict[str, int] = {}
    for entry in relations.events():
        event = entry.event
        if event.type == "QUEUED" and ("group_id" in entry.job or "by" in asked(entry)):
            yield _joins(world, relations, entry, closings)
        if event.type == "DELETED":
            group_id = relations.latest[event.job_id].job.get("group_id", "")
            of_group = relations.groups.get(group_id)
            unfinished = of_group is not None and of_group.end is None
            yield f"{entry}: its group {group_id} has not ended" if unfinished else HOLDS
        if is_group(entry):
            yield _of_group(world, relations, entry, reported)
        if event.job_id in relations.groups and event.type in VERDICTS:
            yield _ends(relations.groups[event.job_id], entry, closings)
    yield from _settled(world, closings)


def _closings(world: World) -> dict[str, list[tuple[str, float, float]]]:
    """By group: the outcome of each CloseGroup, when it was called, and when it returned."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    for call in world.history.calls:
        if call.rpc == "CloseGroup" and call.outcome != REFUSED:
            found.setdefault(call.job_id, []).append((call.outcome, call.invoked, call.returned))
    return found


def _joins(
    world: World, relations: Relations, entry: LogEntry, closings: dict[str, list[tuple[str, float, float]]]
) -> str:
    group_id, by = entry.job.get("group_id", ""), asked(entry).get("by")
    adds_to_own = False
    if by is not None:
        job_id, attempt = by
        creator = relations.latest.get(job_id)
        runs = creator is not None and (creator.event.state, creator.attempt) == ("PROCESSING", int(attempt))
        if not runs or creator is None:
            return f"{entry} was created by attempt {attempt} of {job_id}, which was not running: {creator}"
        adds_to_own = creator.job.get("group_id", "") == group_id
    if not group_id:
        return HOLDS
    group = relations.groups.get(group_id)
    if group is None:
        return f"{entry}: {group_id} is no group"
    if group.end is not None or group.stopped:
        return f"{entry}: its group was stopping since {group.stopped}, and ended with {group.end}"
    asked_for = world.created_by.get(entry.event.job_id)
    known = [
        returned
        for outcome, _, returned in closings.get(group_id, ())
        if outcome == ANSWERED and asked_for is not None and returned < asked_for
    ]
    return f"{entry}: its group was closed" if known and not adds_to_own else HOLDS


def _of_group(world: World, relations: Relations, entry: LogEntry, reported: dict[str, int]) -> str:
    event = entry.event
    if event.type not in OF_GROUPS:
        return f"{entry}: this does not happen to a group"
    if event.type == "QUEUED":
        after = world.entries.get(event.sequence + 1)
        begun = after is not None and (after.event.job_id, after.event.type) == (event.job_id, "STARTED")
        return HOLDS if begun else f"{entry} is a group, and was not begun: {after}"
    if event.type == "PROGRESS":
        before = reported.get(event.job_id)
        reported[event.job_id] = entry.time
        often = before is not None and entry.time - before < PROGRESS_US
        return f"{entry}: it had reported its progress at {before}" if often else HOLDS
    return HOLDS


def _ends(group: Members, entry: LogEntry, closings: dict[str, list[tuple[str, float, float]]]) -> str:
    if group.unfinished:
        return f"{entry}: its members {group.unfinished[:5]} have not ended"
    if not (entry.event.job_id in closings or group.stopped):
        return f"{entry}: nobody has closed it"
    wanted = "PERMANENTLY_FAILED" if group.is_exceeded else "COMPLETED"
    if entry.event.type != wanted:
        return f"{entry}: it should be {wanted} with {group.counts} and {group.queued.job['group']}"
    told = _told(entry)
    right = {"total": len(group.jobs)} | {name: group.counts[state] for name, state in COUNTED.items()}
    if any(told[name] != count for name, count in right.items()):
        return f"{entry} tells {told}, and there are {right}"
    tokens = sum(group.tokens.values())
    return HOLDS if told["tokens"] <= tokens else f"{entry} tells {told}, and there are {tokens} tokens"


def _told(entry: LogEntry) -> dict[str, int]:
    members = entry.job.get("members", {})
    return {name: int(members.get(name, 0)) for name in ("total", *COUNTED, "tokens")}


def _settled(world: World, closings: dict[str, list[tuple[str, float, float]]]) -> Iterator[str]:
    if not world.history.settled:
        return
    for group_id, group in Relations(world).at(world.history.settled).groups.items():
        is_closed = any(outcome == ANSWERED for outcome, _, _ in closings.get(group_id, ()))
        if group.stopped and group.unfinished:
            yield f"{group_id} is stopping since {group.stopped}, and {group.unfinished[:5]} are not cancelled"
        elif (group.stopped or is_closed) and not group.unfinished and group.end is None:
            yield f"{group_id} has not ended, though all its members have: the last at {group.latest}"
        else:
            yield HOLDS


def stopped(world: World) -> Iterator[str]:
    """P13: once a group is cancelled, or has too many failures and is to cancel, nobody gets a member of it.

    Only such a group cancels its members.
    """
    relations = Relations(world)
    by_hand = {call.marker for call in world.history.calls if call.rpc == "Start" and call.marker}
    for entry in relations.events():
        if is_hand_out(entry) or entry.marker in by_hand:
            group = relations.stopping(entry)
            yield HOLDS if group is None else f"{entry}: {group.queued.event.job_id} was stopping since {group.stopped}"
        if entry.event.type == "CANCELLED" and entry.job.get("cancel_cause") == BY_GROUP:
            cause = relations.groups.get(entry.job.get("cancel_cause_id", ""))
            around = list(relations.around(entry.job.get("group_id", "")))
            fair = cause is not None and cause in around and cause.stopped > 0
            yield HOLDS if fair else f"{entry} was cancelled because of a group that is not stopping: {cause}"


def summed(world: World) -> Iterator[str]:
    """P13, P20: what a group says of its members in the end equals a recount. On the way it tells no more."""
    relations = Relations(world)
    for entry in relations.events():
        group = relations.groups.get(entry.event.job_id)
        if group is not None and entry.event.type != "DELETED":
            told, counts = _told(entry), group.counts
            much = [name for name, state in COUNTED.items() if told[name] > counts[state]]
            yield f"{entry} tells {told}, and there are {counts}" if much else HOLDS
    closings = _closings(world)
    for group_id, row in world.history.rows.items():
        group = relations.groups.get(group_id)
        if group is not None:
            yield _recounted(group_id, group, row.get("members", {}), closings)


def _recounted(
    group_id: str, group: Members, members: dict[str, object], closings: dict[str, list[tuple[str, float, float]]]
) -> str:
    right = {
        "total": len(group.jobs),
        **{name: group.counts[state] for name, state in COUNTED.items()},
        "tokens": sum(group.tokens.values()),
    }
    told = {name: int(str(members.get(name, 0))) for name in right}
    if told != right:
        return f"{group_id} has {members}, and there are {right}"
    calls = closings.get(group_id, [])
    closed = bool(members.get("closed"))
    # A group that is over is not closed any more.
    ended = group.end is not None
    fair = bool(calls) if closed else ended or all(outcome != ANSWERED for outcome, _, _ in calls)
    if not fair:
        return f"{group_id} has {members}, after {calls}"
    stops = bool(members.get("stopping"))
    return HOLDS if stops is bool(group.stopped) else f"{group_id} has {members}, stopping since {group.stopped}"
