"""Checks that what is counted of needs and groups equals a recount of the jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from peewee import SQL

from jobstate_server.domain.groups import PROGRESS_ENDED, GroupMove
from jobstate_server.domain.job import INT64_MAX, JobState

Rows = Callable[[Any], Sequence[tuple[Any, ...]]]
"""Runs a query in the snapshot that is checked."""


class RelationMiscount(NamedTuple):
    """A count of a needed job, of a job with needs, or of a group, that is not that of the jobs."""

    key: int
    """The job's ``create_sequence``."""
    job_id: str
    measure: str
    """``unfinished`` of ``needed``, ``open_needs`` of ``job``, or a column of ``members``."""
    counted: int
    stored: int

    def __str__(self) -> str:
        if self.measure == UNFINISHED:
            return f"{self.counted:,} unfinished jobs need {self._job}, but what is stored says {self.stored:,}"
        if self.measure == OPEN_NEEDS:
            return f"{self._job} waits for {self.counted:,} needs, but what is stored says {self.stored:,}"
        return f"{self.measure} of the group {self._job} is {self.counted:,}, but what is stored says {self.stored:,}"

    @property
    def missing(self) -> int:
        """What to add to what is stored."""
        return self.counted - self.stored

    @property
    def _job(self) -> str:
        return self.job_id or f"with the key {self.key}"


UNFINISHED = "unfinished"
OPEN_NEEDS = "open_needs"


_UNFINISHED_STATES = ", ".join(str(int(state)) for state in JobState if not state.is_final)
_QUEUED = int(JobState.QUEUED)

# Names in these texts come from our models.
_NEEDED = SQL(
    "SELECT need.parent_key, MIN(need.parent_id), COUNT(*), 0 FROM need"
    " JOIN job ON job.create_sequence = need.child_key"
    f" WHERE job.state IN ({_UNFINISHED_STATES}) GROUP BY need.parent_key"
    " UNION ALL SELECT needed.parent_key, job.id, 0, needed.unfinished FROM needed"
    " LEFT JOIN job ON job.create_sequence = needed.parent_key"
)
"""Key, id, how many unfinished jobs need it, and what is stored: to be summed by the first."""

_OPEN = (
    "CASE WHEN held THEN"
    " (SELECT COUNT(*) FROM need WHERE need.child_key = job.create_sequence AND need.outcome IS NULL) ELSE 0 END"
)
"""How many needs a QUEUED job waits for. One that is not held back waits for none."""

_OPEN_NEEDS = SQL(
    f"SELECT create_sequence, id, counted, open_needs FROM (SELECT create_sequence, id, open_needs, {_OPEN} AS counted"
    f" FROM job WHERE state = {_QUEUED} AND needs_count > 0) AS waiting WHERE counted <> open_needs ORDER BY id"
)


def correct_open_needs_text(keys: str) -> str:
    """Counts anew what jobs with these keys wait for. One that waits for nothing is due at the end of its delay."""
    return (
        f"UPDATE job SET open_needs = {_OPEN},"
        f" due_time = CASE WHEN NOT held THEN due_time WHEN {_OPEN} = 0 THEN ready_time END"
        f" WHERE create_sequence IN ({keys}) AND state = {_QUEUED}"
    )


# Sums of large numbers overflow, so each is summed in two parts.
_PART_BITS = 31
_PART = (1 << _PART_BITS) - 1


def _parts(value: str) -> str:
    return f"{value} >> {_PART_BITS}, {value} & {_PART}"


def _sum(condition: str, value: str = "1") -> str:
    return f"SUM(CASE WHEN {condition} THEN {value} ELSE 0 END)"


def _sums(value: str) -> str:
    own = "group_depth = 0"
    return f"{_sum(own, f'{value} >> {_PART_BITS}')}, {_sum(own, f'{value} & {_PART}')}"


_ENDED = (JobState.COMPLETED, JobState.PERMANENTLY_FAILED, JobState.CANCELLED)
_STATES = ", ".join(_sum(f"state = {int(state)}") for state in _ENDED)
_PROGRESS = f"SUM(CASE WHEN state IN ({_UNFINISHED_STATES}) THEN progress ELSE {PROGRESS_ENDED} END)"
_MEMBERS = SQL(
    "SELECT group_key, group_id, parent_key, depth, CASE WHEN final THEN 1 ELSE 0 END, total, completed,"
    f" permanently_failed, cancelled, progress, {_parts('tokens')}, {_parts('cost_nano')} FROM members"
    f" UNION ALL SELECT group_key, NULL, NULL, NULL, NULL, COUNT(*), {_STATES}, {_PROGRESS},"
    f" {_sums('estimated_tokens')}, {_sums('estimated_cost_nano')} FROM job WHERE group_key IS NOT NULL"
    " GROUP BY group_key"
)
"""The groups as they are stored, and what their members are. Groups among these have added no tokens and no cost."""


class _StoredGroup(NamedTuple):
    key: int
    group_id: str
    parent_key: int | None
    depth: int
    is_final: bool
    counts: GroupMove


def relation_miscounts(rows: Rows) -> list[RelationMiscount]:
    """The counts that are not those of the jobs. Of each kind one statement reads both, so they are of one moment."""
    return [*_needed_miscounts(rows), *open_needs_miscounts(rows), *_group_miscounts(rows)]


def open_needs_miscounts(rows: Rows) -> list[RelationMiscount]:
    """Those of jobs that have needs, in the order of their ids."""
    return [
        RelationMiscount(key, job_id, OPEN_NEEDS, int(counted), stored)
        for key, job_id, counted, stored in rows(_OPEN_NEEDS)
    ]


def _needed_miscounts(rows: Rows) -> Iterator[RelationMiscount]:
    ids: dict[int, str] = {}
    sums: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for key, job_id, counted, stored in rows(_NEEDED):
        ids[key] = job_id or ids.get(key, "")
        sums[key][0] += int(counted)
        sums[key][1] += int(stored)
    for key, (counted, stored) in sorted(sums.items()):
        if counted != stored:
            yield RelationMiscount(key, ids[key], UNFINISHED, counted, stored)


def _group_miscounts(rows: Rows) -> Iterator[RelationMiscount]:
    groups: list[_StoredGroup] = []
    counted: dict[int, GroupMove] = {}
    for key, group_id, parent, depth, final, *values in rows(_MEMBERS):
        total, completed, failed, cancelled, progress, *parts = map(int, values)
        tokens, cost_nano = ((high << _PART_BITS) + low for high, low in (parts[:2], parts[2:]))
        move = GroupMove(total, completed, failed, cancelled, progress, tokens, cost_nano)
        if depth is None:
            counted[key] = move
        else:
            groups.append(_StoredGroup(key, group_id, parent, depth, bool(final), move))
    yield from _compared(groups, counted)


def _compared(groups: Iterable[_StoredGroup], counted: dict[int, GroupMove]) -> Iterator[RelationMiscount]:
    """Compare each group with its members, the innermost first: tokens and cost of groups within count too."""
    within: defaultdict[int | None, GroupMove] = defaultdict(GroupMove)
    for group in sorted(groups, key=lambda each: (-each.depth, each.key)):
        found = counted.get(group.key, GroupMove())
        if group.is_final:
            # Its members may have been deleted, but for those that are not final.
            unfinished, expected = _unfinished(group.counts), _unfinished(found)
            found = group.counts._replace(total=group.counts.total + expected - unfinished)
        else:
            spent = within[group.key]
            tokens, cost = found.tokens + spent.tokens, found.cost_nano + spent.cost_nano
            found = found._replace(tokens=min(INT64_MAX, tokens), cost_nano=min(INT64_MAX, cost))
        within[group.parent_key] = within[group.parent_key].plus(
            GroupMove(tokens=found.tokens, cost_nano=found.cost_nano)
        )
        for name, right, stored in zip(GroupMove._fields, found, group.counts, strict=True):
            if right != stored:
                yield RelationMiscount(group.key, group.group_id, name, right, stored)


def _unfinished(counts: GroupMove) -> int:
    return counts.total - counts.completed - counts.permanently_failed - counts.cancelled


def needed_corrections(wrong: Iterable[RelationMiscount]) -> list[tuple[int, int]]:
    """The keys of needed jobs, and what to add to their counts."""
    return [(miscount.key, miscount.missing) for miscount in wrong if miscount.measure == UNFINISHED]


def group_corrections(wrong: Iterable[RelationMiscount]) -> dict[int, GroupMove]:
    """What to add to groups, by key, and not to those around them."""
    moves: defaultdict[int, GroupMove] = defaultdict(GroupMove)
    for miscount in wrong:
        if miscount.measure in GroupMove._fields:
            moves[miscount.key] = moves[miscount.key]._replace(**{miscount.measure: miscount.missing})
    return dict(moves)
