"""Checks the rows of a store: the log has no gaps, what belongs together is there, and the counts equal a recount."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from peewee import SQL, ModelSelect, Value, fn

from jobstate_server.domain.job import JobState
from jobstate_server.domain.statistics import Measure, TallyKey
from jobstate_server.domain.waiting import WaitReason
from jobstate_server.store import migrate
from jobstate_server.store.lane_checks import LaneMiscount, lane_miscounts
from jobstate_server.store.models import (
    IS_UNCLAIMED,
    AttemptRow,
    DocumentRow,
    EventRow,
    HorizonRow,
    JobRow,
    LogRow,
    SchemaRow,
    TallyRow,
)
from jobstate_server.store.relation_checks import RelationMiscount, relation_miscounts

Rows = Callable[[Any], Sequence[tuple[Any, ...]]]
"""Runs a query in the snapshot that is checked."""

Apart = Mapping[type[AttemptRow | DocumentRow], str]
"""Tables whose rows belong to jobs, and what they are called."""

_APART: Apart = {AttemptRow: "ended attempts"}

_TOLD = {
    Measure.STORED: "in {}",
    Measure.UNCLAIMED: "whose attempt no worker has claimed",
    Measure.HELD: "that are delayed",
    Measure.GROUPS: "that are running groups",
}
"""The measures that count jobs which are stored now, and how such jobs are told. All others count what has happened,
which the jobs do not show."""

_HELD_BY_NEEDS = (Measure.HELD, WaitReason.NEEDS)
_NOT_MET = "whose needs are not met"


class Miscount(NamedTuple):
    """A count of the statistics that is not that of the jobs."""

    key: TallyKey
    counted: int
    """How many jobs there are."""
    tallied: int
    """How many the statistics count."""

    def __str__(self) -> str:
        job_type, measure, bucket = self.key
        state = JobState(bucket).name if bucket in list(JobState) else str(bucket)
        which = _NOT_MET if (measure, bucket) == _HELD_BY_NEEDS else _TOLD[measure].format(state)
        told = f"{self.counted:,} jobs of type {job_type} {which}"
        return f"there are {told}, but the statistics count {self.tallied:,}"


AnyMiscount = Miscount | LaneMiscount | RelationMiscount
"""A wrong count of any kind."""


@dataclass(slots=True)
class Checked:
    """The result of a check."""

    jobs: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)
    """A sentence for each problem. Empty when the store is sound."""
    miscounts: list[AnyMiscount] = field(default_factory=list)
    """The wrong counts, which a recount corrects. ``problems`` tells of them too."""

    @property
    def has_miscounts_only(self) -> bool:
        """Whether nothing is wrong but counts."""
        return len(self.problems) == len(self.miscounts) > 0


def check_schema(rows: Rows, dialect: str, checked: Checked) -> bool:
    """Whether this program can check a store with this schema. Otherwise that is a problem."""
    ((version,),) = rows(SchemaRow.select(SchemaRow.version))
    known = migrate.migrations(dialect)[-1].version
    if version != known:
        checked.problems.append(f"it has schema {version}, and this program checks schema {known}")
    return bool(version == known)


def check_rows(rows: Rows, checked: Checked, documents: Apart) -> None:
    """Check the rows of one snapshot.

    Args:
        documents: the tables with documents of jobs that are stored apart, and what they are called.
    """
    ((head, size),) = rows(LogRow.select(LogRow.head, LogRow.bytes))
    ((horizon, removed),) = rows(HorizonRow.select(HorizonRow.sequence, HorizonRow.bytes))
    checked.events = _check_log(rows, horizon, head, size - removed, checked.problems)
    checked.jobs = _check_jobs(rows, horizon, checked.problems)
    _check_belonging(rows, {**_APART, **documents}, checked.problems)
    checked.miscounts = [*miscounts(rows), *lane_miscounts(rows), *relation_miscounts(rows)]
    checked.problems += map(str, checked.miscounts)


def _check_log(rows: Rows, horizon: int, head: int, size: int, problems: list[str]) -> int:
    """Check that every sequence between horizon and head is there once. Returns how many events there are."""
    sums = EventRow.select(
        fn.COUNT(EventRow.sequence),
        fn.COALESCE(fn.MIN(EventRow.sequence), horizon + 1),
        fn.COALESCE(fn.MAX(EventRow.sequence), horizon),
        fn.COALESCE(fn.SUM(fn.LENGTH(EventRow.payload)), 0),
    )
    ((count, first, last, summed),) = rows(sums)
    found = int(summed)
    if (count, first, last) != (head - horizon, horizon + 1, head):
        problems.append(
            f"the log has {count:,} events from {first} to {last}, but should have every event from"
            f" {horizon + 1} to {head}"
        )
    if found != size:
        problems.append(f"the events have {found:,} bytes, but the log counts {size:,}")
    return int(count)


def _check_jobs(rows: Rows, horizon: int, problems: list[str]) -> int:
    """Check that every job's version is the sequence of one of its events. Returns how many jobs there are."""
    ((count,),) = rows(JobRow.select(fn.COUNT(JobRow.id)))
    is_last_event = (EventRow.sequence == JobRow.version) & (EventRow.job_id == JobRow.id)
    without = (
        JobRow.select(fn.COUNT(JobRow.id))
        .left_outer_join(EventRow, on=is_last_event)
        .where((JobRow.version > horizon) & EventRow.sequence.is_null())
    )
    ((strays,),) = rows(without)
    if strays:
        problems.append(f"{strays:,} jobs have a version whose event is not in the log")
    return int(count)


def _check_belonging(rows: Rows, apart: Apart, problems: list[str]) -> None:
    """Check that what is stored apart from its job has one."""
    keys = JobRow.select(JobRow.create_sequence)
    for model, what in apart.items():
        lost = model.select(fn.COUNT(SQL("*"))).where(model.create_sequence.not_in(keys))
        ((orphans,),) = rows(lost)
        if orphans:
            problems.append(f"{orphans:,} {what} belong to no job")


def miscounts(rows: Rows) -> list[Miscount]:
    """The counts that are not those of the jobs.

    One statement reads the jobs and the counts, so both are of one moment also where others write.
    """
    sums: defaultdict[TallyKey, list[int]] = defaultdict(lambda: [0, 0])
    for job_type, measure, bucket, counted, tallied in rows(_COUNTS):
        both = sums[job_type, Measure(measure), bucket]
        both[0] += counted
        both[1] += tallied
    return [Miscount(key, *both) for key, both in sorted(sums.items()) if both[0] != both[1]]


def corrections(wrong: Sequence[Miscount]) -> dict[TallyKey, int]:
    """What to add to the tallies. It stays right while others write, for they add to them too."""
    return {miscount.key: miscount.counted - miscount.tallied for miscount in wrong}


_STORED = JobRow.select(JobRow.job_type, Value(int(Measure.STORED)), JobRow.state, fn.COUNT(JobRow.id), Value(0))


def _jobs(measure: Measure, bucket: int, condition: Any) -> ModelSelect[Any]:
    columns = (JobRow.job_type, Value(int(measure)), Value(bucket), fn.COUNT(JobRow.id), Value(0))
    return JobRow.select(*columns).where(condition).group_by(JobRow.job_type)


_TALLIED = TallyRow.select(TallyRow.job_type, TallyRow.measure, TallyRow.bucket, Value(0), TallyRow.value)

_COUNTS: Any = reduce(
    add,
    (
        _STORED.group_by(JobRow.job_type, JobRow.state),
        _jobs(Measure.UNCLAIMED, 0, IS_UNCLAIMED),
        _jobs(Measure.HELD, int(WaitReason.TIME), JobRow.held & (JobRow.open_needs == 0)),
        _jobs(Measure.HELD, int(WaitReason.NEEDS), JobRow.held & (JobRow.open_needs > 0)),
        _jobs(Measure.GROUPS, 0, (JobRow.state == int(JobState.PROCESSING)) & (JobRow.group_depth > 0)),
        _TALLIED.where(TallyRow.measure.in_([int(measure) for measure in _TOLD])),
    ),
)
"""Job type, measure, bucket, how many jobs there are, and how many the statistics count: to be summed by the first
three. A sum of queries is their UNION ALL."""
