"""Reads and writes of a SQLite transaction about needs and groups."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from jobstate_server.domain.job import INT64_MAX, FinishedJob, Job
from jobstate_server.domain.limits import MEMBERS_AT_ONCE, NEEDS_AT_ONCE
from jobstate_server.domain.needs import NeedCondition, OpenNeed, OpenNeeds
from jobstate_server.domain.reads import Due
from jobstate_server.store.chunks import chunks
from jobstate_server.store.models import IS_UNFINISHED_MEMBER
from jobstate_server.store.reached import LOADED_BYTES_MAX, share_of
from jobstate_server.store.records import Changes, Loaded
from jobstate_server.store.relation_checks import (
    OPEN_NEEDS,
    RelationMiscount,
    correct_open_needs_text,
    group_corrections,
    needed_corrections,
)
from jobstate_server.store.relation_records import GroupChange, StoredGroup
from jobstate_server.store.relation_rows import (
    GROUP_VALUES,
    NEED_COLUMNS,
    NEW_GROUP_COLUMNS,
    add_spent_text,
    changed_group,
    forget_needed_text,
    group_from,
    group_values,
    groups_text,
    lower_needed_text,
    need_values,
    new_group_values,
    parent_key,
    update_groups_text,
)
from jobstate_server.store.sizes import document_bytes
from jobstate_server.store.sqlite.many_rows import ManyRows, insert

_JOBS_AT_ONCE = 16
"""Jobs read before their size is looked at: 3 MiB with the largest documents."""

# Names in these texts come from our models; values are bound.
_GROUPS = groups_text("SELECT value FROM json_each(:keys)")
_OPEN_NEEDS = (
    "SELECT job.id, need.child_key, need.position, need.condition"
    " FROM need CROSS JOIN job ON job.create_sequence = need.child_key"
    " WHERE need.parent_key = :parent_key AND need.outcome IS NULL ORDER BY need.child_key, need.position LIMIT :limit"
)
_DUE_GROUPS = (
    "SELECT group_key, group_id, stopping FROM members WHERE due_time IS NOT NULL AND due_time <= :now"
    " ORDER BY due_time, group_key LIMIT :limit"
)
_UNFINISHED_MEMBERS = (
    f"SELECT id FROM job WHERE group_key = :group_key AND {IS_UNFINISHED_MEMBER.sql}"  # noqa: S608
    " ORDER BY create_sequence LIMIT :limit"
)

_insert_needs = insert("need", NEED_COLUMNS)
_add_needed = ManyRows(
    # "WHERE true" tells the parser that ON does not start a join.
    "INSERT INTO needed (parent_key, unfinished) SELECT * FROM ({rows}) WHERE true"
    " ON CONFLICT (parent_key) DO UPDATE SET unfinished = unfinished + excluded.unfinished",
    2,
)
_resolve_needs = ManyRows(
    "UPDATE need SET outcome = new.column3 FROM ({rows}) AS new"
    " WHERE need.child_key = new.column1 AND need.position = new.column2",
    3,
)
_lower_needed = ManyRows(lower_needed_text("{rows}"), 1)
_forget_needed = ManyRows(forget_needed_text("{rows}"), 1)
_forget_counts = ManyRows("DELETE FROM needed WHERE unfinished <= 0 AND parent_key IN ({rows})", 1)
_correct_open_needs = ManyRows(correct_open_needs_text("{rows}"), 1)
_insert_groups = insert("members", NEW_GROUP_COLUMNS)
_delete_needs = ManyRows("DELETE FROM need WHERE child_key IN ({rows})", 1)
_delete_groups = ManyRows("DELETE FROM members WHERE group_key IN ({rows})", 1)


def _total(term: str, added: str) -> str:
    # A sum that overflows becomes a float, and MIN makes it an integer again.
    return f"MAX(0, MIN({INT64_MAX}, {term} + {added}))"


_update_groups = ManyRows(
    update_groups_text("({rows}) AS new", lambda name: f"new.column{GROUP_VALUES.index(name) + 1}", _total, "MAX"),
    len(GROUP_VALUES),
)
_SPENT = ("group_key", "tokens", "cost_nano")
_add_spent = ManyRows(
    add_spent_text("({rows}) AS new", lambda name: f"new.column{_SPENT.index(name) + 1}", _total), len(_SPENT)
)


class RelationReads:
    """The reads of one transaction."""

    def __init__(self, connection: sqlite3.Connection, whole: Callable[[Sequence[str]], list[Job]]) -> None:
        """``whole`` reads jobs by id, in order."""
        self._connection = connection
        self._whole = whole

    def groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        """These groups and those around them."""
        return groups(self._connection, keys)

    def load_open_needs(self, due: Iterable[Job], loaded: Loaded) -> None:
        """Add the open needs of the jobs among these that are final, and the jobs that have them."""
        ended, bytes_left = [job for job in due if job.state.is_final], LOADED_BYTES_MAX
        for job in ended:
            share = share_of(NEEDS_AT_ONCE, len(ended))
            rows = self._rows(_OPEN_NEEDS, parent_key=job.create_sequence, limit=share + 1)
            is_all = len(rows) <= share
            rows = rows[:share]
            children, bytes_left = self._until_full([row[0] for row in rows], bytes_left, loaded)
            needs = [
                OpenNeed(job_id, key, position, NeedCondition(condition))
                for job_id, key, position, condition in rows
                if job_id in children
            ]
            loaded.open_needs[job.id] = OpenNeeds(needs, is_all and len(needs) == len(rows))

    def load_due_groups(self, selection: Due, now: int, loaded: Loaded) -> None:
        """Add the groups that are due, and unfinished members of those that are stopping."""
        rows = self._rows(_DUE_GROUPS, now=now, limit=selection.limit)
        if not rows:
            return
        ids = [group_id for _, group_id, _ in rows]
        loaded.due_groups[selection] = ids
        for job in self._whole([group_id for group_id in ids if group_id not in loaded.jobs]):
            loaded.jobs[job.id] = job
        stopping, bytes_left = [row[:2] for row in rows if row[2]], LOADED_BYTES_MAX
        for key, group_id in stopping:
            share = share_of(MEMBERS_AT_ONCE, len(stopping))
            found = self._rows(_UNFINISHED_MEMBERS, group_key=key, limit=share)
            members, bytes_left = self._until_full([member for (member,) in found], bytes_left, loaded)
            loaded.unfinished_members[group_id] = list(members)

    def _until_full(self, ids: Sequence[str], bytes_left: int, loaded: Loaded) -> tuple[dict[str, None], int]:
        """Load the first of these jobs, as long as bytes are left. Returns their ids, and the bytes left then."""
        taken: dict[str, None] = {}
        for some in chunks(list(dict.fromkeys(ids)), _JOBS_AT_ONCE):
            if bytes_left <= 0:
                break
            missing = [job_id for job_id in some if job_id not in loaded.jobs]
            for job in self._whole(missing):
                loaded.jobs[job.id] = job
                bytes_left -= document_bytes(job)
            taken.update(dict.fromkeys(some))
        return taken, bytes_left

    def _rows(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(text, values).fetchall()


def groups(connection: sqlite3.Connection, keys: Collection[int]) -> dict[int, StoredGroup]:
    """These groups and those around them."""
    return dict(map(group_from, connection.execute(_GROUPS, {"keys": json.dumps(list(keys))})))


def delete_relations(connection: sqlite3.Connection, deleted: Sequence[FinishedJob]) -> None:
    """Delete the needs of these jobs, and the counts of those that are groups."""
    _delete_needs.run(connection, [(job.create_sequence,) for job in deleted if job.needs_count])
    _delete_groups.run(connection, [(job.create_sequence,) for job in deleted if job.group_depth])


def write_needs(connection: sqlite3.Connection, changes: Changes, first: int) -> None:
    """Write what changes about needs. ``first``: the sequence of the transaction's first event."""
    if changes.new_needs:
        _insert_needs.run(connection, [need_values(need, first) for need in changes.new_needs])
        counts: dict[int, int] = {}
        for need in changes.new_needs:
            if need.is_counted:
                key = parent_key(need, first)
                counts[key] = counts.get(key, 0) + 1
        _add_needed.run(connection, list(counts.items()))
    if changes.resolved_needs:
        rows = [(key, position, int(outcome)) for key, position, outcome in changes.resolved_needs]
        _resolve_needs.run(connection, rows)
    if changes.ended_children:
        keys = [(key,) for key in changes.ended_children]
        _lower_needed.run(connection, keys)
        _forget_needed.run(connection, keys)


def write_groups(connection: sqlite3.Connection, changes: Changes, first: int) -> int | None:
    """Write what changes about groups. Returns the earliest due time of those that changed."""
    _insert_groups.run(connection, [new_group_values(new, first) for new in changes.new_groups])
    rows = [group_values(changed_group(change, first), change, changes.now) for change in changes.groups]
    due = [time for (time,) in _update_groups.returned(connection, rows) if time is not None]
    _add_spent.run(connection, list(_spent_around(connection, changes, first)))
    return min(due, default=None)


def _spent_around(connection: sqlite3.Connection, changes: Changes, first: int) -> Iterator[tuple[int, int, int]]:
    """The tokens and cost of changed groups that are added to each group around them."""
    spent = {changed_group(change, first): change.move for change in changes.groups}
    spent = {key: move for key, move in spent.items() if move.tokens or move.cost_nano}
    if not spent:
        return
    # No other transaction writes meanwhile, so what is read is what is added to.
    known = groups(connection, list(spent))
    sums: dict[int, tuple[int, int]] = {}
    for key, move in spent.items():
        above = known[key].parent_key if key in known else None
        while above is not None and above in known:
            tokens, cost_nano = sums.get(above, (0, 0))
            sums[above] = (tokens + move.tokens, cost_nano + move.cost_nano)
            above = known[above].parent_key
    for key, (tokens, cost_nano) in sums.items():
        yield key, min(INT64_MAX, tokens), min(INT64_MAX, cost_nano)


def correct_relations(connection: sqlite3.Connection, wrong: Sequence[RelationMiscount]) -> None:
    """Correct the counts that are wrong. No server uses the store."""
    _correct_open_needs.run(connection, [(miscount.key,) for miscount in wrong if miscount.measure == OPEN_NEEDS])
    needed = needed_corrections(wrong)
    _add_needed.run(connection, needed)
    _forget_counts.run(connection, [(key,) for key, _ in needed])
    moves = group_corrections(wrong).items()
    _update_groups.run(connection, [group_values(key, GroupChange(key, None, move), 0) for key, move in moves])
