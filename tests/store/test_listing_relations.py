"""Lists of the members of a group, of the jobs around a need, and of what waits for the same."""

from __future__ import annotations

from itertools import pairwise

import pytest

from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import NeedCondition
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.waiting import WaitReason, wait_reason
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.relation_records import NeedRow

from .support import UNBOUNDED, a_job, an_event, keep, keep_jobs, remains

HELD = {"held": True, "open_needs": 1}


def listed(reader: Reader, wanted: JobFilter, order: Order = Order.OLDEST_FIRST, limit: int = 2) -> list[str]:
    """The ids of all pages."""
    found: list[Job] = []
    after = None
    while True:
        page = reader.list_jobs(wanted, order, after, limit, UNBOUNDED)
        found += page.jobs
        if not page.has_more:
            return [job.id for job in found]
        after = Position(found[-1].create_time, found[-1].create_sequence)


def keep_needing(store: Store, child: Job, *needed: Job) -> Job:
    """Create a job that needs stored ones."""
    final = NeedCondition.FINAL
    needs = [
        NeedRow(0, place, job.id, job.create_sequence, None, final, None, True) for place, job in enumerate(needed)
    ]
    keep(store, Changes(inserted=[ChangedJob(child, 0, 0)], events=[an_event(child.id)], new_needs=needs))
    return child


@pytest.mark.parametrize("order", Order)
def test_the_members_of_a_group_are_listed_by_the_time_of_their_creation(
    store: Store, reader: Reader, order: Order
) -> None:
    group = a_job("group", group_depth=1)
    members = [a_job(f"{n}", group_key=group.create_sequence, group_id="group", create_time=n // 2) for n in range(5)]
    keep_jobs(store, group, *members, a_job("other"), a_job("of another", group_key=7, group_id="another"))

    ids = [member.id for member in members]
    assert listed(reader, JobFilter(group_id="group"), order) == (ids if order is Order.OLDEST_FIRST else ids[::-1])


def test_other_filters_hold_for_members_too(store: Store, reader: Reader) -> None:
    group = a_job("group", group_depth=1)
    of_group = {"group_key": group.create_sequence, "group_id": "group"}
    keep_jobs(
        store,
        group,
        a_job("failed", state=JobState.FAILED, **of_group),
        a_job("queued", **of_group),
        a_job("of a type", job_type="other", state=JobState.FAILED, **of_group),
        a_job("of a source", source_id="far", state=JobState.FAILED, **of_group),
    )

    wanted = JobFilter(group_id="group", states=(JobState.FAILED,))
    assert set(listed(reader, wanted)) == {"failed", "of a type", "of a source"}
    wanted = JobFilter(group_id="group", states=(JobState.FAILED,), job_types=("type",), source_ids=("source",))
    assert listed(reader, wanted) == ["failed"]
    assert set(listed(reader, JobFilter(group_id="group", reach=Reach(source_ids=("far",))))) == {"of a source"}


@pytest.mark.parametrize("order", Order)
def test_what_a_job_needs_and_what_needs_it_is_listed_in_the_order_of_creation(
    store: Store, reader: Reader, order: Order
) -> None:
    parents = [a_job(f"parent-{n}") for n in range(3)]
    keep_jobs(store, *parents, a_job("other"))
    first = keep_needing(store, a_job("first"), *reversed(parents))
    second = keep_needing(store, a_job("second"), parents[0], parents[0])
    third = keep_needing(store, a_job("third"), parents[0])

    def in_order(ids: list[str]) -> list[str]:
        return ids if order is Order.OLDEST_FIRST else ids[::-1]

    assert listed(reader, JobFilter(needed_by="first"), order) == in_order([parent.id for parent in parents])
    assert listed(reader, JobFilter(needs="parent-0"), order) == in_order([first.id, second.id, third.id])
    assert listed(reader, JobFilter(needs="parent-1"), order) == ["first"]
    assert listed(reader, JobFilter(needs="first"), order) == []
    assert all(before.create_sequence < after.create_sequence for before, after in pairwise([first, second, third]))


@pytest.mark.parametrize("wanted", [JobFilter(group_id="no"), JobFilter(needed_by="no"), JobFilter(needs="no")])
def test_of_an_unknown_job_the_page_is_empty(store: Store, reader: Reader, wanted: JobFilter) -> None:
    keep_jobs(store, a_job())

    assert listed(reader, wanted) == []


@pytest.mark.parametrize("reasons", [(WaitReason.TURN,), (WaitReason.TIME,), (WaitReason.NEEDS,), tuple(WaitReason)])
@pytest.mark.parametrize("also", [{}, {"job_types": ("type",)}, {"states": (JobState.QUEUED,)}])
def test_jobs_are_listed_by_what_they_wait_for(
    store: Store, reader: Reader, reasons: tuple[WaitReason, ...], also: dict[str, tuple[object, ...]]
) -> None:
    jobs = [
        a_job("queued"),
        a_job("delayed", held=True),
        a_job("needs", **HELD),
        a_job("returned", state=JobState.PROCESSING),
        a_job("runs", state=JobState.PROCESSING, claimed=True),
        a_job("retrying", state=JobState.RETRYING),
        a_job("rests", state=JobState.FAILED),
        a_job("done", state=JobState.COMPLETED, complete_time=5),
    ]
    keep_jobs(store, *jobs)

    states = also.get("states", tuple(JobState))
    expected = {job.id for job in jobs if wait_reason(job) in reasons and job.state in states}
    assert set(listed(reader, JobFilter(wait_reasons=reasons, **also))) == expected  # type: ignore[arg-type]


def test_a_needed_job_that_was_deleted_is_not_listed(store: Store, reader: Reader) -> None:
    parents = [a_job(f"parent-{n}", state=JobState.COMPLETED, complete_time=1) for n in range(2)]
    keep_jobs(store, *parents)
    child = keep_needing(store, a_job("child", needs_count=2), *parents)
    keep(store, Changes(deleted=[remains(job=parents[0])]))

    assert listed(reader, JobFilter(needed_by=child.id)) == ["parent-1"]
    assert listed(reader, JobFilter(needed_by=child.id, states=(JobState.COMPLETED,))) == ["parent-1"]
