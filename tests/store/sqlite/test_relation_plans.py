"""Statements about needs and groups walk an index each, and common jobs need none of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.groups import GroupMove, GroupPolicy
from jobstate_server.domain.job import JobState
from jobstate_server.domain.needs import NeedCondition, ResolvedNeed
from jobstate_server.domain.waiting import WaitReason
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.relation_records import GroupChange, NeedRow, NewGroup
from jobstate_server.store.sqlite.store import SqliteStore

from ...support.reads import reads
from ..support import UNBOUNDED, a_job, an_event, at, keep, keep_jobs, remains
from .test_plans import check, planned

RELATION_TABLES = {"need", "needed", "members"}


@pytest.fixture
def reader(store: SqliteStore) -> Iterator[SqlReader]:
    reader = store.open_reader()
    yield reader
    reader.close()


def test_ends_reach_jobs_and_groups_through_their_indexes(store: SqliteStore) -> None:
    parent = a_job("parent", state=JobState.COMPLETED, due_time=5, needed=True)
    keep_jobs(store, parent)
    child = a_job("child", needs_count=1, open_needs=1)
    need = NeedRow(0, 0, "parent", parent.create_sequence, None, NeedCondition.FINAL, None, is_counted=True)
    group = a_job("group", group_depth=1, state=JobState.PROCESSING)
    created = Changes(
        inserted=[ChangedJob(child, 0, 0), ChangedJob(group, 1, 1)],
        events=[an_event("child"), an_event("group")],
        new_needs=[need],
        new_groups=[NewGroup(1, "group", None, None, 1, GroupPolicy())],
    )
    keep(store, created)
    keep(store, Changes(groups=[GroupChange(group.create_sequence, None, GroupMove(total=1), stops=True)], now=1))

    with store.transaction() as transaction, planned(store) as steps:
        loaded = transaction.load(reads(due=10))
        transaction.next_due()
        transaction.groups([group.create_sequence])
    assert (list(loaded.open_needs), list(loaded.unfinished_members)) == (["parent"], ["group"])

    check(steps)
    for index in ("need_open (parent_key=?)", "members_due", "job_unfinished_member (group_key=?)"):
        assert any(index in step for step in steps), (index, steps)


def test_changes_of_needs_and_groups_are_written_by_their_keys(store: SqliteStore) -> None:
    with planned(store) as steps:
        keep(
            store,
            Changes(
                resolved_needs=[ResolvedNeed(1, 0, JobState.COMPLETED)],
                ended_children=[1, 2],
                groups=[GroupChange(1, None, GroupMove(total=1, tokens=1))],
                deleted=[remains()._replace(needs_count=1, group_depth=1)],
            ),
        )

    # The few rows that are written are grouped by the jobs that they need.
    check(steps, sorts=True)
    assert any("members USING INTEGER PRIMARY KEY" in step for step in steps), steps
    assert any("need USING PRIMARY KEY (child_key=?" in step for step in steps), steps


def test_what_readers_see_of_needs_and_groups_is_found_by_key(reader: SqlReader) -> None:
    with planned(reader) as steps:
        reader.needs(a_job(needs_count=1))
        reader.groups([1, 2])

    check(steps)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("after", [None, at(5, "job")], ids=["first page", "later page"])
@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (JobFilter(group_id="job"), "job_by_group (group_key=?"),
        (JobFilter(group_id="job", states=(JobState.QUEUED,)), "job_by_group (group_key=?"),
        (JobFilter(needed_by="job"), "need USING PRIMARY KEY (child_key=?"),
        (JobFilter(needs="job"), "need_by_parent (parent_key=?"),
        (JobFilter(wait_reasons=(WaitReason.NEEDS,)), "job_held"),
        (JobFilter(wait_reasons=(WaitReason.TURN,), job_types=("type",)), "job_by_type (job_type=? AND state=?"),
    ],
)
def test_a_list_walks_the_index_made_for_it(
    store: SqliteStore, reader: SqlReader, wanted: JobFilter, index: str, after: Position | None, order: Order
) -> None:
    keep_jobs(store, a_job())
    with planned(reader) as steps:
        reader.list_jobs(wanted, order, after, 50, UNBOUNDED)

    # What one job needs, at most NEEDS_MAX, is sorted.
    check(steps, walks=["job_held"], sorts=bool(wanted.needed_by))
    assert any(index in step for step in steps), steps


def test_jobs_without_needs_and_groups_take_no_statement_for_them(store: SqliteStore) -> None:
    job = a_job()
    statements: list[str] = []
    connection = store._database.connection()
    connection.set_trace_callback(statements.append)
    keep(store, Changes(inserted=[ChangedJob(job, 0, 0)], events=[an_event()]))
    running = a_job(create_sequence=job.create_sequence, state=JobState.PROCESSING, attempt=1, claimed=True)
    keep(store, Changes(updated=[ChangedJob(running, 0, None, job)], events=[an_event()]))
    failed = a_job(create_sequence=job.create_sequence, state=JobState.CANCELLED, cancel_reason="why", complete_time=5)
    keep(store, Changes(updated=[ChangedJob(failed, 0, None, running)], events=[an_event()]))
    keep(store, Changes(deleted=[remains(job=failed)]))
    connection.set_trace_callback(None)

    assert any("UPDATE job" in text for text in statements)
    for text in statements:
        words = text.replace('"', " ").replace("(", " ").split()
        assert not RELATION_TABLES & set(words), text
        if words[0] == "UPDATE":
            assert not {"open_needs", "needed", "cancel_cause_id"} & set(words), text
