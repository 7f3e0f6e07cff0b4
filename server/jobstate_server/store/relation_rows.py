"""Converts between rows and records of needs and groups, and builds the statement that changes groups, for every
dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobstate_server.domain.groups import (
    PROGRESS_INTERVAL,
    TOLERATES_ANY,
    Group,
    GroupMove,
    GroupPolicy,
    OnExcess,
)
from jobstate_server.domain.job import INT64_MAX, JobState
from jobstate_server.domain.needs import Need, NeedCondition
from jobstate_server.store.relation_models import NeedRow as NeedTable
from jobstate_server.store.relation_records import GroupChange, NeedRow, NewGroup, StoredGroup, StoredNeed

NEED_COLUMNS = tuple(NeedTable._meta.sorted_field_names)

NEW_GROUP_COLUMNS = ("group_key", "group_id", "parent_key", "depth", "tolerated_failures", "on_excess")
"""The columns of ``members`` that are given when a group is made."""

GROUP_COLUMNS = (
    "group_key",
    "group_id",
    "parent_key",
    "tolerated_failures",
    "on_excess",
    *GroupMove._fields,
    "closed",
    "stopping",
    "final",
)
"""The columns of ``members`` in the order of ``group_from``."""

GROUP_VALUES = (
    "group_key",
    *GroupMove._fields,
    "closes",
    "stops",
    "ends",
    "reported",
    "look_again",
    "now",
)
"""The values of a row that changes a group."""


def need_values(need: NeedRow, first: int) -> tuple[Any, ...]:
    """The row of a need, in the order of ``NEED_COLUMNS``.

    Args:
        first: the sequence of the transaction's first event, as everywhere here.
    """
    outcome = None if need.outcome is None else int(need.outcome)
    child_key = first + need.child_event
    return (child_key, need.position, parent_key(need, first), need.parent_id, int(need.condition), outcome)


def parent_key(need: NeedRow, first: int) -> int:
    """The key of the needed job."""
    key = need.parent_key if need.parent_event is None else first + need.parent_event
    assert key is not None
    return key


def stored_need_from(row: tuple[Any, ...]) -> StoredNeed:
    """The need in a row of the needed job's id, the condition and the outcome."""
    parent_id, condition, outcome = row
    return StoredNeed(Need(parent_id, NeedCondition(condition)), None if outcome is None else JobState(outcome))


def new_group_values(new: NewGroup, first: int) -> tuple[Any, ...]:
    """The values of ``NEW_GROUP_COLUMNS``."""
    parent = new.parent_key if new.parent_event is None else first + new.parent_event
    policy = new.policy
    return (first + new.event, new.group_id, parent, new.depth, policy.tolerated_failures, int(policy.on_excess))


def group_from(row: tuple[Any, ...]) -> tuple[int, StoredGroup]:
    """The key and the group in a row of ``GROUP_COLUMNS``."""
    key, group_id, parent, tolerated, on_excess, *counts, closed, stopping, final = row
    policy = GroupPolicy(tolerated, OnExcess(on_excess))
    group = Group(policy, GroupMove(*counts), bool(closed), bool(stopping), bool(final))
    return key, StoredGroup(group_id, parent, group)


def changed_group(change: GroupChange, first: int) -> int:
    """The key of the group that changes."""
    key = change.group_key if change.event is None else first + change.event
    assert key is not None
    return key


def group_values(key: int | None, change: GroupChange, now: int) -> tuple[Any, ...]:
    """The values of ``GROUP_VALUES``."""
    flags = (change.closes, change.stops, change.ends)
    return (key, *storable(change.move), *flags, change.reported, change.look_again, now)


def storable(move: GroupMove) -> GroupMove:
    """The move with sums that a column can have: what members have spent may add up to more."""
    tokens, cost_nano = min(INT64_MAX, move.tokens), min(INT64_MAX, move.cost_nano)
    return move._replace(tokens=tokens, cost_nano=cost_nano)


# Names in these texts come from our models; values are bound.


def groups_text(keys: str) -> str:
    """Reads the groups with these keys and all around them, as rows of ``GROUP_COLUMNS``."""
    return (
        f"WITH RECURSIVE wanted(key) AS ({keys} UNION"
        " SELECT parent_key FROM wanted JOIN members ON group_key = wanted.key WHERE parent_key IS NOT NULL)"
        f" SELECT {', '.join(GROUP_COLUMNS)} FROM members WHERE group_key IN (SELECT key FROM wanted)"
    )


def lower_needed_text(children: str) -> str:
    """Forgets that jobs with these keys are unfinished, for the jobs that they need."""
    return (
        "UPDATE needed SET unfinished = unfinished - ended.children FROM"
        f" (SELECT parent_key, COUNT(*) AS children FROM need WHERE child_key IN ({children}) GROUP BY parent_key)"
        " AS ended WHERE needed.parent_key = ended.parent_key"
    )


def forget_needed_text(children: str) -> str:
    """Deletes the counts of what jobs with these keys need, where they are over."""
    return (
        "DELETE FROM needed WHERE unfinished <= 0"
        f" AND parent_key IN (SELECT parent_key FROM need WHERE child_key IN ({children}))"
    )


def add_spent_text(rows: str, new: Callable[[str], str], total: Callable[[str, str], str]) -> str:
    """Adds tokens and cost to groups, from which nothing follows. See ``update_groups_text``."""
    sets = ", ".join(f"{name} = {total(f'members.{name}', new(name))}" for name in ("tokens", "cost_nano"))
    return f"UPDATE members SET {sets} FROM {rows} WHERE members.group_key = {new('group_key')}"


def update_groups_text(rows: str, new: Callable[[str], str], total: Callable[[str, str], str], greatest: str) -> str:
    """Adds rows of ``GROUP_VALUES``, and decides what follows: ``Group.moved`` and ``groups.next_look`` say what.

    It returns the new due times. A row whose group does not exist changes nothing.

    Args:
        rows: the table of new values, with its name.
        new: the name of a value.
        total: the sum of two terms, limited to 0 … 2⁶³-1.
        greatest: the function for the greatest of some values.
    """
    sums = {name: f"members.{name} + {new(name)}" for name in GroupMove._fields}
    sums |= {name: total(f"members.{name}", new(name)) for name in ("tokens", "cost_nano")}
    kept = ("group_key", "tolerated_failures", "on_excess")
    counted = {
        **{name: f"members.{name}" for name in kept},
        **sums,
        "closed": f"members.closed OR {new('closes')}",
        "stops": f"members.stopping OR {new('stops')}",
        "final": f"members.final OR {new('ends')}",
        "reported": new("reported"),
        "look_again": new("look_again"),
        "now": new("now"),
        "mean": f"COALESCE({new('reported')}, {_mean('members.')})",
        "due_before": f"CASE WHEN {new('reported')} IS NULL THEN members.due_time END",
        "progress_time": f"CASE WHEN {new('reported')} IS NULL THEN members.progress_time ELSE {new('now')} END",
    }
    # Each step reads the results of the one before it. Names come from our models, here and below; values are bound.
    text = f"SELECT {_named(counted)} FROM {rows} JOIN members ON members.group_key = {new('group_key')}"
    exceeded = f"tolerated_failures <> {TOLERATES_ANY} AND permanently_failed + cancelled > tolerated_failures"
    stopping = f"stops OR (on_excess = {int(OnExcess.CANCEL)} AND {exceeded}) AS stopping"
    unfinished = "total - completed - permanently_failed - cancelled AS unfinished"
    text = f"SELECT counted.*, {stopping}, {unfinished} FROM ({text}) AS counted"
    text = f"SELECT decided.*, {_due_time(greatest)} AS due_time FROM ({text}) AS decided"
    written = (*GroupMove._fields, "closed", "stopping", "final", "progress_time", "due_time")
    sets = ", ".join(f"{name} = changed.{name}" for name in written)
    return (
        f"UPDATE members SET {sets} FROM ({text}) AS changed WHERE members.group_key = changed.group_key"
        " RETURNING members.due_time"
    )


def _due_time(greatest: str) -> str:
    """``groups.next_look``."""
    has_step = "(stopping AND unfinished <> 0) OR (NOT final AND unfinished = 0 AND (closed OR stopping))"
    return (
        "CASE WHEN look_again IS NOT NULL THEN look_again"
        f" WHEN {has_step} THEN now WHEN final THEN NULL"
        f" WHEN due_before IS NULL AND mean <> {_mean('')} THEN {greatest}(now, progress_time + {PROGRESS_INTERVAL})"
        " ELSE due_before END"
    )


def _mean(table: str) -> str:
    """``Group.progress``."""
    return f"CASE WHEN {table}total = 0 THEN 0 ELSE {table}progress / {table}total END"


def _named(columns: dict[str, str]) -> str:
    return ", ".join(f"{value} AS {name}" for name, value in columns.items())
