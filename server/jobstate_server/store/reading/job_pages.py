"""Reads pages of filtered jobs, newest or oldest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from peewee import SQL, Expression, PeeweeException, Select, fn

from jobstate_server.domain.bulk import MatchedJob
from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.reach import EVERYTHING
from jobstate_server.store.base import ENTRIES_SCANNED_MAX
from jobstate_server.store.chunks import chunks
from jobstate_server.store.known_job_types import known_job_types
from jobstate_server.store.models import JobRow
from jobstate_server.store.reading.job_ranges import (
    AnyRange,
    Ordering,
    Way,
    conditions,
    few_ended,
    ordering_of,
    remaining,
    ways,
)
from jobstate_server.store.reading.jobs import JobReads
from jobstate_server.store.reading.relations import RelationReads
from jobstate_server.store.records import JobPage
from jobstate_server.store.sizes import document_bytes

_ROWS_AT_ONCE = 50
"""Jobs that one statement of a list fetches: 6 MiB with the largest documents."""

_MATCHED = JobRow.select(*[getattr(JobRow, name) for name in MatchedJob._fields])
_STATE = MatchedJob._fields.index("state")
_MATCHED_AT_ONCE = 256
"""Jobs of which one statement reads what a bulk run needs."""

ENTRIES_AT_FIRST_MIN = 16
"""Entries first read from each index range when several are merged. A page needs few from most ranges, and reads more
from the others."""

_ENTRIES_AT_ONCE_MAX = 2_000
"""Entries that one statement reads where few of them match: some milliseconds."""

_RANGES_COUNTED_MAX = 16
"""Ranges of a way that are counted. With more it is hardly ever the shortest."""

_SORTED_MAX = 1_000
"""Jobs that are read and sorted where no index has the order of the page."""

_FEW = 200
"""A way with fewer entries is taken without a look at the others."""


class JobPageReads(JobReads, RelationReads):
    """Reads pages of jobs: first the keys from indexes, then the jobs."""

    def list_jobs(self, wanted: JobFilter, order: Order, after: Position | None, limit: int, bytes_max: int) -> JobPage:
        newest_first = order is Order.NEWEST_FIRST
        try:
            with self._database.atomic():
                ordering = ordering_of(wanted, newest_first=newest_first, by_end=wanted.by_end, after=after)
                found, resume = self._places(wanted, ordering, limit)
                jobs = self._load_until([place.create_sequence for place in found], bytes_max)
                if len(jobs) < len(found):
                    resume = found[len(jobs) - 1]
                return JobPage(jobs, resume, self.group_counts(jobs))
        except PeeweeException as error:
            # An error of the transaction itself. Each statement translates its own errors.
            self._translate(error)

    def matching_jobs(
        self, wanted: JobFilter, after: Position | None, limit: int
    ) -> tuple[list[MatchedJob], Position | None]:
        try:
            with self._database.atomic():
                ordering = ordering_of(wanted, newest_first=False, by_end=False, after=after)
                places, resume = self._places(wanted, ordering, limit)
                found = []
                for some in chunks([place.create_sequence for place in places], _MATCHED_AT_ONCE):
                    found += self._rows(_MATCHED.where(JobRow.create_sequence.in_(some)))
        except PeeweeException as error:
            self._translate(error)
        jobs = [MatchedJob(*row)._replace(state=JobState(row[_STATE])) for row in found]
        return sorted(jobs, key=lambda job: (job.create_time, job.create_sequence)), resume

    def _places(self, wanted: JobFilter, ordering: Ordering, limit: int) -> tuple[list[Position], Position | None]:
        """Where the first jobs are that match, and where the next page begins. None if there is none."""
        if wanted.reach is not EVERYTHING:
            # The types within reach are then read like those that the caller names.
            narrowed = wanted.within_reach(known_job_types(self._database, None))
            if narrowed is None:
                return [], None
            wanted = narrowed
        related = None
        if named := wanted.group_id or wanted.needed_by or wanted.needs:
            rows = self._rows(JobRow.select(JobRow.create_sequence).where(JobRow.id == named))
            if not rows:
                return [], None
            related = rows[0][0]
        found: list[Position] = []
        last = None
        for scanned, (time, key, matches) in enumerate(self._entries(wanted, related, ordering, limit)):
            # One match beyond the page shows that there are more.
            if matches and len(found) == limit:
                return found, found[-1]
            if scanned == ENTRIES_SCANNED_MAX:
                return found, last
            last = Position(time, key)
            if matches:
                found.append(last)
        return found, None

    def _entries(
        self, wanted: JobFilter, related: int | None, ordering: Ordering, limit: int
    ) -> Iterator[tuple[int, int, int]]:
        """Entries of indexes in the order of the page, with all that match: time, key, and whether it matches."""
        taken = self._shortest(wanted, related, ordering)
        condition = remaining(conditions(wanted, related), taken)
        sought = limit + 1
        count = len(taken.ranges)
        first = sought if count <= 1 else min(sought, max(ENTRIES_AT_FIRST_MIN, 2 * limit // count))
        runs = [self._run(range_, ordering, condition, first) for range_ in taken.ranges]
        return heapq.merge(*runs, reverse=ordering.newest_first)

    def _run(
        self, range_: AnyRange, ordering: Ordering, condition: Expression | None, limit: int
    ) -> Iterator[tuple[int, int, int]]:
        """The entries of one range, read as they are needed. Each job once."""
        while True:
            rows = self._rows(range_.entries(ordering, condition, limit))
            before = None
            for row in rows:
                if row[1] != before:
                    yield row
                before = row[1]
            if len(rows) < limit:
                return
            ordering = ordering.at(Position(*rows[-1][:2]))
            if condition is not None:
                limit = min(4 * limit, _ENTRIES_AT_ONCE_MAX)

    def _shortest(self, wanted: JobFilter, related: int | None, ordering: Ordering) -> Way:
        """The way with the fewest entries, as far as they are counted."""
        shortest, *others = ways(wanted, related, by_end=ordering.by_end)
        if not others:
            return shortest
        created = ordering_of(wanted, newest_first=ordering.newest_first, by_end=False, after=None)
        fewest = self._count(shortest, ordering, ENTRIES_SCANNED_MAX)
        for way in others:
            if fewest < _FEW:
                break
            # The jobs of a way in another order than that of the page are all sorted.
            is_sorted = way.by_end == ordering.by_end
            most = fewest if is_sorted else min(fewest, _SORTED_MAX)
            count = self._count(way, ordering if is_sorted else created, most)
            if count < most:
                shortest, fewest = way, count
        if shortest.by_end == ordering.by_end:
            return shortest
        found = [self._rows(range_.keys(created, fewest)) for range_ in shortest.ranges]
        return few_ended(shortest, [key for rows in found for (key,) in rows])

    def _count(self, way: Way, ordering: Ordering, limit: int) -> int:
        """How many entries a way has, up to a limit."""
        count = 0
        for range_ in way.ranges[:_RANGES_COUNTED_MAX]:
            some = range_.keys(ordering, limit - count)
            count += int(self._rows(Select((some.alias("entries"),), [fn.COUNT(SQL("*"))]))[0][0])
            if count >= limit:
                break
        return count if len(way.ranges) <= _RANGES_COUNTED_MAX else limit

    def _load_until(self, keys: Sequence[int], bytes_max: int) -> list[Job]:
        page: list[Job] = []
        size = 0
        for some in chunks(keys, _ROWS_AT_ONCE):
            found = self._jobs_by_key(some)
            for key in some:
                size += document_bytes(found[key])
                if page and size > bytes_max:
                    return page
                page.append(found[key])
        return page
