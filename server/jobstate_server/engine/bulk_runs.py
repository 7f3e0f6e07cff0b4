"""Bulk runs: changes of all jobs that match a filter, in slices that leave callers most of the committer's time.

Jobs are read page by page, and changed slice by slice in the order of their creation. Each slice is a command, which
stores how far the run has come in the transaction that changes the jobs. Whoever repeats the call goes on from there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from jobstate_server.clock import Clock
from jobstate_server.domain.bulk import BeginBulkRun, BulkChange, BulkProgress, ChangeSome, MatchedJob
from jobstate_server.domain.durations import MILLISECOND
from jobstate_server.domain.errors import Overloaded
from jobstate_server.domain.filters import JobFilter, Position
from jobstate_server.domain.limits import BULK_CALLS_MAX, BULK_IDS_RETURNED_MAX
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import BulkOutcome
from jobstate_server.engine.pace import Pace, pause
from jobstate_server.engine.readers import Readers
from jobstate_server.store.base import Reader

BULK_SHARE = 0.2
"""The share of the committer's time that all bulk runs together take while callers wait."""

BULK_SLICE_TIME = 3 * MILLISECOND
"""How long a slice may take while callers wait behind it."""

SLICE_JOBS_MAX = 128
"""Jobs of a slice at most: 16 MiB with the largest documents."""

PAGE_JOBS_MAX = 512
"""Jobs that are read at once. Of each only the id and what the counts need."""

CALL_S = 5.0
"""How long one call works. The deadlines of callers are longer, and a repeat goes on."""

RETRY_DELAY_S = 2.0
"""When to repeat a call that was refused because too many are under way."""


@dataclass(slots=True)
class BulkAnswer:
    """What a call has found or done."""

    progress: BulkProgress
    more: bool = False
    """Whether there is more to do."""
    limit_reached: bool = False
    job_ids: list[str] = field(default_factory=list)
    """The first of the jobs that this call has changed, or would change."""

    def add_ids(self, job_ids: Sequence[str]) -> None:
        """Add these, as far as there is room."""
        self.job_ids += job_ids[: BULK_IDS_RETURNED_MAX - len(self.job_ids)]


class BulkRuns:
    """The calls of bulk runs at this server. They take turns, slice by slice."""

    def __init__(self, committer: Committer, readers: Readers, clock: Clock) -> None:
        self.call_s = CALL_S
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._pace = Pace(BULK_SHARE, BULK_SLICE_TIME, SLICE_JOBS_MAX)
        self._turn = asyncio.Lock()
        self._calls = 0
        self._draining = False

    def drain(self) -> None:
        """Answer the calls under way after their current slices. A repeat goes on, at another server."""
        self._draining = True

    async def run(self, change: BulkChange, size: int, connection: str) -> BulkAnswer:
        """Go on with a bulk run for a while.

        Args:
            size: bytes of the request.
            connection: on which it arrived.

        Raises:
            Overloaded, RequestIdReused
        """
        with self._place():
            return await self._work(change, self._begin(change, size, connection), self._change_some)

    async def count(self, change: BulkChange) -> BulkAnswer:
        """Count for a while what a bulk run would do."""
        with self._place():
            return await self._work(change, self._beginning(), self._count_some)

    async def _work(self, change: BulkChange, begin: Awaitable[BulkProgress], step: Step) -> BulkAnswer:
        """Take steps from where ``begin`` says, for as long as a call works."""
        until = asyncio.get_running_loop().time() + self.call_s
        answer = BulkAnswer(await begin)
        slices = _Slices(change, self._readers)
        while not _is_over(change, answer.progress):
            await step(change, slices, answer)
            if self._draining or asyncio.get_running_loop().time() >= until:
                break
        answer.more = not _is_over(change, answer.progress)
        answer.limit_reached = answer.progress.done >= change.limit
        return answer

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._calls >= BULK_CALLS_MAX:
            raise Overloaded(f"{BULK_CALLS_MAX} calls that change many jobs are under way", RETRY_DELAY_S)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _newest(self) -> int:
        return (await self._readers.run(lambda reader: reader.log_state(), is_short=True)).head

    async def _beginning(self) -> BulkProgress:
        """Where a dry run begins."""
        return BulkProgress(await self._newest())

    async def _begin(self, change: BulkChange, size: int, connection: str) -> BulkProgress:
        """Begin the run, or learn how far it has come."""
        assert change.request is not None
        command = BeginBulkRun(change.request, await self._newest())
        outcome = await self._committer.submit(command, size, connection)
        assert isinstance(outcome, BulkOutcome)
        assert outcome.progress is not None
        return outcome.progress

    async def _count_some(self, change: BulkChange, slices: _Slices, answer: BulkAnswer) -> None:
        """Count the jobs of the next page."""
        some, is_last = await slices.after(answer.progress, PAGE_JOBS_MAX)
        reasons = [change.would_skip(job) for job in some]
        changed = [job.id for job, reason in zip(some, reasons, strict=True) if reason is None]
        changed = changed[: change.limit - answer.progress.done]
        skipped = Counter(int(reason) for reason in reasons if reason is not None)
        answer.add_ids(changed)
        counted = answer.progress.plus(len(changed), skipped)
        after = some[-1].position if some else counted.after
        answer.progress = replace(counted, after=after, is_over=is_last)

    async def _change_some(self, change: BulkChange, slices: _Slices, answer: BulkAnswer) -> None:
        """Change the jobs of the next slice, then leave the others their part. Calls take turns at it."""
        async with self._turn:
            await self._change_slice(change, slices, answer)

    async def _change_slice(self, change: BulkChange, slices: _Slices, answer: BulkAnswer) -> None:
        assert change.request is not None
        before = answer.progress
        some, is_last = await slices.after(before, min(self._pace.rows, change.limit - before.done))
        command = ChangeSome(
            change.request,
            before,
            change.wanted,
            tuple([change.command_for(job.id) for job in some]),
            tuple([job.create_sequence for job in some]),
            some[-1].position if some else before.after,
            is_last,
        )
        outcome = await self._committer.submit_own(command)
        assert isinstance(outcome, BulkOutcome)
        # If the request id was deleted meanwhile, which takes a day, the next call begins anew.
        answer.progress = outcome.progress or before
        answer.add_ids(outcome.changed)
        if outcome.acted:
            others = outcome.others + self._committer.backlog
            length = self._pace.after(max(1, len(some)), outcome.spent, others)
            if length:
                await pause(self._clock, length)


class _Slices:
    """Cuts slices from pages of matching jobs."""

    def __init__(self, change: BulkChange, readers: Readers) -> None:
        self._wanted = change.wanted
        self._readers = readers
        self._page: deque[MatchedJob] = deque()
        self._after: Position | None = None
        """The last job that was taken from the page."""
        self._is_last = False
        """Whether no jobs follow this page."""

    async def after(self, progress: BulkProgress, limit: int) -> tuple[list[MatchedJob], bool]:
        """The next jobs after those that a run has looked at, and whether they are the last."""
        if not self._page or self._after != progress.after:
            await self._read(progress)
        some = [self._page.popleft() for _ in range(min(limit, len(self._page)))]
        if some:
            self._after = some[-1].position
        return some, self._is_last and not self._page

    async def _read(self, progress: BulkProgress) -> None:
        after, self._is_last = progress.after, False
        self._page = deque()
        # Where few jobs match, a page may be empty without being the last.
        while not (self._page or self._is_last):
            found, after = await self._readers.run(partial(_matching, wanted=self._wanted, after=after))
            self._page = deque(job for job in found if job.create_sequence <= progress.through)
            # Keys grow with the time of creation, so all that follow a job that is too new are too new.
            self._is_last = after is None or len(self._page) < len(found)
        self._after = progress.after


Step = Callable[[BulkChange, _Slices, BulkAnswer], Awaitable[None]]
"""What a call does again and again: it changes, or counts, the next jobs."""


def _matching(reader: Reader, *, wanted: JobFilter, after: Position | None) -> tuple[list[MatchedJob], Position | None]:
    return reader.matching_jobs(wanted, after, PAGE_JOBS_MAX)


def _is_over(change: BulkChange, progress: BulkProgress) -> bool:
    return progress.is_over or progress.done >= change.limit
