"""Checks that what lanes count equals a recount of the jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from peewee import SQL, Value, fn

from jobstate_server.domain.job import JobState
from jobstate_server.domain.lanes import NOTHING_COUNTED, LaneCounts
from jobstate_server.store.lane_models import DispatchRow, LaneRow
from jobstate_server.store.models import IS_READY, IS_UNCLAIMED, JobRow
from jobstate_server.store.records import Changes, DispatchChange, LaneChange

Rows = Callable[[Any], Sequence[tuple[Any, ...]]]
"""Runs a query in the snapshot that is checked."""


class LaneMiscount(NamedTuple):
    """A lane whose counts are not those of its jobs, or a type whose sums over its lanes are not."""

    job_type: str
    lane: str
    """Empty for the sums of the type: what is in the empty lane is not counted."""
    counted: LaneCounts
    """What the jobs are."""
    tallied: LaneCounts
    """What is stored."""

    def __str__(self) -> str:
        where = f"in lane {self.lane!r} of type {self.job_type}" if self.lane else f"in the lanes of {self.job_type}"
        return f"the jobs {where} are {_told(self.counted)}, but what is stored says {_told(self.tallied)}"


def _told(counts: LaneCounts) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in counts._asdict().items())


def _sum(condition: str) -> Any:
    return fn.SUM(SQL(f"CASE WHEN {condition} THEN 1 ELSE 0 END"))


_NOTHING = [Value(0)] * len(NOTHING_COUNTED)
_CONDITIONS = (
    IS_READY.sql,
    IS_UNCLAIMED.sql,
    f"state = {int(JobState.PROCESSING)} AND claimed",
    f"state IN ({int(JobState.FAILED)}, {int(JobState.RETRYING)})",
)
_COUNTED = (
    JobRow.select(JobRow.job_type, JobRow.lane, *map(_sum, _CONDITIONS), *_NOTHING)
    .where(JobRow.lane != "")
    .group_by(JobRow.job_type, JobRow.lane)
)
_OF_TYPES = (
    JobRow.select(JobRow.job_type, Value(""), *map(_sum, _CONDITIONS), *_NOTHING)
    .where(JobRow.lane != "")
    .group_by(JobRow.job_type)
)
_STORED = LaneRow.select(
    LaneRow.job_type, LaneRow.lane, *_NOTHING, LaneRow.ready, LaneRow.returned, LaneRow.running, LaneRow.resting
).where(LaneRow.lane != "")
_SUMS = DispatchRow.select(
    DispatchRow.job_type,
    Value(""),
    *_NOTHING,
    DispatchRow.ready,
    DispatchRow.returned,
    DispatchRow.running,
    DispatchRow.resting,
)
_COUNTS: Any = reduce(add, (_COUNTED, _OF_TYPES, _STORED, _SUMS))
"""Job type, lane, what the jobs are, and what is stored: to be summed by the first two."""


def lane_miscounts(rows: Rows) -> list[LaneMiscount]:
    """The counts that are not those of the jobs. One statement reads both, so they are of one moment."""
    sums: defaultdict[tuple[str, str], list[LaneCounts]] = defaultdict(lambda: [NOTHING_COUNTED, NOTHING_COUNTED])
    for job_type, lane, *values in rows(_COUNTS):
        both = sums[job_type, lane]
        numbers = [int(value or 0) for value in values]
        both[0] = both[0].plus(LaneCounts(*numbers[:4]))
        both[1] = both[1].plus(LaneCounts(*numbers[4:]))
    return [LaneMiscount(*key, *both) for key, both in sorted(sums.items()) if both[0] != both[1]]


def lane_corrections(wrong: Sequence[LaneMiscount]) -> Changes:
    """What to add to what is stored. It stays right while others write, for they add to it too."""
    changes = Changes()
    for miscount in wrong:
        missing = miscount.counted.minus(miscount.tallied)
        if miscount.lane:
            changes.lanes.append(LaneChange(miscount.job_type, miscount.lane, *missing, 0, 0, -1, 0, ""))
        else:
            changes.dispatch.append(DispatchChange(miscount.job_type, *missing, 0, 0))
    return changes
