"""Reads and writes of a PostgreSQL transaction about needs and groups.

What belongs to a group or a need, apart from jobs, is written by whoever has the log, so nothing of it is locked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import psycopg

from jobstate_server.domain.job import FinishedJob, Job
from jobstate_server.domain.limits import MEMBERS_AT_ONCE, NEEDS_AT_ONCE
from jobstate_server.domain.needs import NeedCondition, OpenNeed, OpenNeeds
from jobstate_server.domain.reads import Due
from jobstate_server.store.postgres import relation_statements as sql
from jobstate_server.store.postgres.binary_arrays import Kind, array
from jobstate_server.store.reached import LOADED_BYTES_MAX, share_of
from jobstate_server.store.records import Changes, Loaded
from jobstate_server.store.relation_checks import RelationMiscount, group_corrections, needed_corrections
from jobstate_server.store.relation_records import GroupChange, NeedRow, NewGroup, StoredGroup
from jobstate_server.store.relation_rows import group_from, group_values, storable
from jobstate_server.store.rows import job_from

Pipeline = Callable[[], AbstractContextManager[Any]]
Connection = psycopg.Connection[Any]
Rows = Iterable[tuple[Any, ...]]


class DueGroups(NamedTuple):
    """The groups that one selection found. Their jobs are locked."""

    selection: Due
    rows: Rows


class RelationReads:
    """The reads of one transaction. What others have locked is passed over."""

    def __init__(self, execute: Any, pipeline: Pipeline, lock_jobs: Callable[[Sequence[str]], dict[str, Job]]) -> None:
        """
        Args:
            execute: executes a statement of the transaction.
            pipeline: sends the statements of its block together.
            lock_jobs: locks and reads jobs by id.
        """
        self._execute = execute
        self._pipeline = pipeline
        self._lock_jobs = lock_jobs

    def groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        """These groups and those around them."""
        if not keys:
            return {}
        return dict(map(group_from, self._execute(sql.GROUPS, keys=array(Kind.INT8, list(keys)))))

    def due_groups(self, selection: Due, now: int) -> DueGroups:
        """Select the groups that are due."""
        return DueGroups(selection, self._execute(sql.DUE_GROUPS, now=now, limit=selection.limit))

    def load(self, due: Iterable[Job], groups: Sequence[DueGroups], loaded: Loaded) -> None:
        """Add whom the ends of due jobs must reach, and the due groups with the members that they must cancel."""
        ended = [job for job in due if job.state.is_final]
        stopping = {key: group_id for found in groups for key, group_id in self._add_groups(found, loaded)}
        if not ended and not stopping:
            return
        needs: Rows = ()
        members: Rows = ()
        with self._pipeline():
            if ended:
                keys = array(Kind.INT8, [job.create_sequence for job in ended])
                needs = self._execute(sql.OPEN_NEEDS, keys=keys, share=share_of(NEEDS_AT_ONCE, len(ended)))
            if stopping:
                share = share_of(MEMBERS_AT_ONCE, len(stopping))
                members = self._execute(sql.UNFINISHED_MEMBERS, keys=array(Kind.INT8, list(stopping)), share=share)
        edges, chosen = list(needs), list(members)
        sizes = {row[4]: row[5] for row in edges if row[4] is not None} | {row[1]: row[2] for row in chosen}
        taken = _until_full(sizes)
        if taken:
            # They are locked already.
            loaded.jobs.update(self._lock_jobs(sorted(taken)))
        self._add_needs(ended, edges, taken, loaded)
        for key, job_id, _ in chosen:
            if job_id in taken:
                loaded.unfinished_members[stopping[key]].append(job_id)

    def _add_groups(self, found: DueGroups, loaded: Loaded) -> list[tuple[int, str]]:
        """Add the due groups. Returns the keys and ids of those that are stopping."""
        rows = list(found.rows)
        if rows:
            loaded.due_groups[found.selection] = [group_id for _, group_id, *_ in rows]
        for _, group_id, is_stopping, *job in rows:
            if group_id not in loaded.jobs:
                loaded.jobs[group_id] = job_from(tuple(job))
            if is_stopping:
                loaded.unfinished_members[group_id] = []
        return [(key, group_id) for key, group_id, is_stopping, *_ in rows if is_stopping]

    def _add_needs(self, ended: Sequence[Job], rows: Rows, taken: Collection[str], loaded: Loaded) -> None:
        needs: dict[int, list[OpenNeed]] = {job.create_sequence: [] for job in ended}
        incomplete: set[int] = set()
        for parent, child_key, position, condition, child_id, _ in rows:
            if child_id in taken:
                needs[parent].append(OpenNeed(child_id, child_key, position, NeedCondition(condition)))
            else:
                incomplete.add(parent)
        for job in ended:
            key = job.create_sequence
            loaded.open_needs[job.id] = OpenNeeds(needs[key], key not in incomplete)


def _until_full(sizes: dict[str, int]) -> set[str]:
    """The first of these jobs, as long as bytes are left."""
    taken: set[str] = set()
    left = LOADED_BYTES_MAX
    for job_id, size in sizes.items():
        if left <= 0:
            break
        taken.add(job_id)
        left -= size
    return taken


def check_group_guards(execute: Any, changes: Changes) -> None:
    """Fail the transaction unless its groups are still as it has relied on. The log is locked."""
    if changes.group_guards:
        execute(
            sql.CHECK_GROUPS,
            keys=array(Kind.INT8, [guard.group_key for guard in changes.group_guards]),
            may_be_closed=array(Kind.BOOL, [guard.may_be_closed for guard in changes.group_guards]),
        )


def delete_relations(connection: Connection, deleted: Sequence[FinishedJob]) -> None:
    """Delete the needs of these jobs, and the counts of those that are groups."""
    with_needs = [(job.create_sequence,) for job in deleted if job.needs_count]
    if with_needs:
        sql.delete_needs.run(connection, with_needs)
    groups = [(job.create_sequence,) for job in deleted if job.group_depth]
    if groups:
        sql.delete_groups.run(connection, groups)


def write_needs(connection: Connection, changes: Changes) -> None:
    """Write what changes about needs. The log is locked, and the jobs are written."""
    count = len(changes.events)
    if changes.new_needs:
        rows = [
            (need.child_event, need.position, need.parent_key, need.parent_event, need.parent_id, *_judged(need))
            for need in changes.new_needs
        ]
        sql.insert_needs.run(connection, rows, events=count)
        counted = Counter((need.parent_key, need.parent_event) for need in changes.new_needs if need.is_counted)
        if counted:
            sql.add_needed.run(connection, [(*key, number) for key, number in counted.items()], events=count)
    if changes.resolved_needs:
        resolved = [(key, position, int(outcome)) for key, position, outcome in changes.resolved_needs]
        sql.resolve_needs.run(connection, resolved)
    if changes.ended_children:
        keys = [(key,) for key in changes.ended_children]
        sql.lower_needed.run(connection, keys)
        sql.forget_needed.run(connection, keys)


def _judged(need: NeedRow) -> tuple[int, int | None]:
    return int(need.condition), None if need.outcome is None else int(need.outcome)


def _terms(new: NewGroup) -> tuple[int, int]:
    return new.policy.tolerated_failures, int(new.policy.on_excess)


def write_groups(connection: Connection, changes: Changes, channel: str) -> psycopg.Cursor[Any] | None:
    """Write what changes about groups. The log is locked, and the jobs are written.

    Returns a cursor with the earliest due time of those that changed; without a row, or None, if none is due.
    """
    count = len(changes.events)
    if changes.new_groups:
        rows = [
            (new.event, new.group_id, new.parent_key, new.parent_event, new.depth, *_terms(new))
            for new in changes.new_groups
        ]
        sql.insert_groups.run(connection, rows, events=count)
    if not changes.groups:
        return None
    values = [(*group_values(change.group_key, change, changes.now), change.event) for change in changes.groups]
    due = sql.update_groups.run(connection, values, events=count, channel=channel)
    moves = [(change.group_key, change.event, storable(change.move)) for change in changes.groups]
    spent = [(key, event, move.tokens, move.cost_nano) for key, event, move in moves if move.tokens or move.cost_nano]
    if spent:
        sql.add_spent.run(connection, spent, events=count)
    return due


def correct_open_needs(connection: Connection, wrong: Sequence[RelationMiscount]) -> Sequence[RelationMiscount]:
    """Count anew what jobs wait for, with those jobs locked, and the log not yet. Returns what was wrong."""
    if wrong:
        ids = array(Kind.TEXT, [miscount.job_id for miscount in wrong])
        connection.execute(sql.LOCK_JOBS, {"ids": ids})
        sql.correct_open_needs.run(connection, [(miscount.key,) for miscount in wrong])
    return wrong


def correct_relations(connection: Connection, wrong: Sequence[RelationMiscount]) -> None:
    """Correct the counts of needed jobs and groups that are wrong. The log is locked."""
    needed = needed_corrections(wrong)
    if needed:
        sql.add_needed.run(connection, [(key, None, missing) for key, missing in needed], events=0)
        sql.forget_counts.run(connection, [(key,) for key, _ in needed])
    moves = group_corrections(wrong)
    if moves:
        rows = [(*group_values(key, GroupChange(key, None, move), 0), None) for key, move in moves.items()]
        sql.correct_groups.run(connection, rows, events=0)
