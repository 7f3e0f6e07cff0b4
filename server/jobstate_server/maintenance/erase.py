"""Erase: deletes final jobs with every text that came with them, from wherever the store has it.

First the jobs are deleted. What is about a job that is gone can then be found by its id, or in the log by its source or
its labels: request ids, the events themselves, and at last the bytes that the store no longer needs. So a repeat of an
interrupted run finds what is left: the events, which say where to look, are erased after everything else that they lead
to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from jobstate_server.clock import Clock
from jobstate_server.domain.bulk import MatchedJob
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.durations import MILLISECOND, SECOND
from jobstate_server.domain.erasing import EraseFinished
from jobstate_server.domain.errors import StoreUnavailable
from jobstate_server.domain.filters import EventFilter, JobFilter, Position
from jobstate_server.domain.job import FinishedJob
from jobstate_server.domain.labels import Labels
from jobstate_server.domain.rules.maintenance import refusal_to_erase
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.erasing import erased, to_erase
from jobstate_server.engine.outcomes import DeletedOutcome
from jobstate_server.engine.pace import Pace, pause
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.run_locks import telling_of_a_part
from jobstate_server.maintenance.slices import TASK_SHARE, Slices
from jobstate_server.maintenance.task import JOB_IDS_RETURNED_MAX
from jobstate_server.store.base import Reader, Store, Transaction
from jobstate_server.store.erasing import CLEAR_FROM_END, Clearing, ErasedEvent, ErasedLane, RequestPage
from jobstate_server.store.records import StoredEvent

log = logging.getLogger(__name__)

JOBS_AT_ONCE = 256
"""Jobs deleted in one transaction at most, and read at once."""

IDS_AT_ONCE = 50_000
"""Ids of gone jobs that are held against the request ids in one pass over these: about 10 MiB."""

REQUESTS_AT_ONCE = 2_000
"""Request ids read at once: some milliseconds of the interpreter, which callers wait for meanwhile."""

ROWS_AT_ONCE = 512
"""Events or request ids erased in one transaction at most."""

PAGES_AT_ONCE = 8_192
"""Pages of the file that are looked at in one step, when there are no callers: some 50 ms."""

PAGES_MIN = 256
"""Pages of a step, however slow the disk is: 1 MiB. With fewer, most of a step would be the cost of a checkpoint."""

CLEARING_TIME = 20 * MILLISECOND
"""How long a step may take while callers wait behind it. It has to write the WAL into the file first, like a commit
every few thousand pages."""

LOCKED_TRIES_MAX = 240
BLOCKED_TRIES_MAX = 240
"""How often something is tried that another replica, or a program that reads an old state, prevents."""

TRY_AGAIN = 250 * MILLISECOND
"""The pause between two tries: a minute in all."""

RETRY_DELAY_S = 60.0
"""After how many seconds to repeat a call that others have kept from ending."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Whose texts to erase: one of these is given."""

    job_id: str = ""
    source_id: str = ""
    labels: Labels = ()
    """Those of the jobs: all of them."""

    @property
    def kind(self) -> str:
        """What is given. It has nothing of the source and the labels, which are erased."""
        return "a job" if self.job_id else "a source" if self.source_id else "labels"

    @property
    def jobs(self) -> JobFilter:
        """The jobs of the source, or with the labels."""
        return JobFilter(source_ids=tuple(self._sources), labels=self.labels)

    @property
    def events(self) -> EventFilter:
        """The events of the jobs."""
        if self.job_id:
            return EventFilter(job_ids=frozenset((self.job_id,)))
        return EventFilter(source_ids=frozenset(self._sources), labels=self.labels)

    @property
    def _sources(self) -> list[str]:
        return [self.source_id] if self.source_id else []


@dataclass(slots=True)
class Erasure:
    """What a run has erased."""

    jobs: int = 0
    events: int = 0
    request_ids: int = 0
    unfinished: int = 0
    """Jobs of the source, or with the labels, that were left, because they are not final or are still needed."""
    unfinished_job_ids: list[str] = field(default_factory=list)
    """The first of them, at most ``JOB_IDS_RETURNED_MAX``."""

    def leave(self, job: FinishedJob) -> None:
        """Count a job that was left."""
        self.unfinished += 1
        if len(self.unfinished_job_ids) < JOB_IDS_RETURNED_MAX:
            self.unfinished_job_ids.append(job.id)


class Erase:
    """Erases jobs."""

    name = "erase"

    def __init__(self, committer: Committer, readers: Readers, clock: Clock, forget: Callable[[], None]) -> None:
        """``forget`` forgets what this server has in memory of the log."""
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._forget = forget

    async def run(self, wanted: Forgotten, caller: Caller) -> Erasure:
        """Erase these jobs, one run at a time.

        Raises:
            TransitionNotAllowed: the job with the id is not final, or is still needed. Nothing was erased.
            Unavailable: a part was erased.
        """
        done = Erasure()
        # An id stays in the log, but a source and labels are erased: who asked for them knows them.
        about = {"actor": caller.actor, "of": wanted.kind, "job": wanted.job_id}
        log.info("erasing", extra=about)
        outcome = "interrupted"
        try:
            with telling_of_a_part():
                await _Run(self._committer, self._readers, self._clock, self._forget, done).erase(wanted, caller)
            outcome = "done"
        except _KeptFromEnding as kept:
            raise StoreUnavailable(str(kept), RETRY_DELAY_S) from kept
        finally:
            counts = {"jobs": done.jobs, "events": done.events, "request_ids": done.request_ids}
            log.info("erased", extra={**about, **counts, "unfinished": done.unfinished, "outcome": outcome})
        return done


class _KeptFromEnding(Exception):
    """Another server or program has kept a run from ending. The message says how."""


class _Run:
    """One run."""

    def __init__(
        self, committer: Committer, readers: Readers, clock: Clock, forget: Callable[[], None], done: Erasure
    ) -> None:
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._forget = forget
        self._done = done
        self._ids: set[str] = set()
        """Jobs that are gone, and whose request ids are still to be found."""

    async def erase(self, wanted: Forgotten, caller: Caller) -> None:
        if wanted.job_id:
            await self._delete_one(wanted.job_id, caller)
        else:
            await self._delete_all(wanted.jobs, caller)
            async for page in self._pages(wanted.events):
                await self._look_for({event.job_id for event in page})
        await self._forget_requests()
        await self._erase_events(wanted.events)
        # Also if nothing was found: an earlier run may have been interrupted before it came to this.
        self._forget()
        try:
            await self._clear()
        finally:
            await self._committer.run_apart(lambda store: store.stop_clearing())

    async def _delete_one(self, job_id: str, caller: Caller) -> None:
        for job in await self._delete([job_id], caller):
            raise refusal_to_erase(job)
        self._ids.add(job_id)

    async def _delete_all(self, wanted: JobFilter, caller: Caller) -> None:
        slices = Slices(self._committer, self._clock, JOBS_AT_ONCE)
        after: Position | None = None
        while True:
            limit = slices.rows
            jobs, after = await self._readers.run(partial(_matching, wanted=wanted, after=after, limit=limit))
            # Where few of many jobs have all of the labels, a page may be empty.
            if jobs:
                for job in await self._delete([job.id for job in jobs], caller, slices):
                    self._done.leave(job)
                await self._look_for({job.id for job in jobs})
            if after is None:
                break

    async def _delete(self, job_ids: Sequence[str], caller: Caller, slices: Slices | None = None) -> list[FinishedJob]:
        """Delete those of these jobs that may be deleted. Returns the others."""
        left: list[FinishedJob] = []
        waiting = list(job_ids)
        for _ in range(LOCKED_TRIES_MAX):
            outcome = await self._committer.submit_own(EraseFinished(job_ids=tuple(waiting), caller=caller))
            assert isinstance(outcome, DeletedOutcome)
            left += outcome.left
            self._done.jobs += len(outcome.deleted)
            if slices is not None:
                await slices.after(len(waiting), outcome)
            found = {job.id for job in (*outcome.deleted, *outcome.left)}
            missing = [job_id for job_id in waiting if job_id not in found]
            if not missing:
                return left
            waiting = list(await self._readers.run(partial(_stored, job_ids=missing)))
            if not waiting:
                return left
            # Another replica has locked them.
            await pause(self._clock, TRY_AGAIN)
        raise _KeptFromEnding("other servers have the jobs in hand; a part may be erased")

    async def _pages(self, wanted: EventFilter) -> AsyncIterator[list[StoredEvent]]:
        """The events that are wanted and not erased, up to the head of now."""
        state = await self._readers.run(lambda reader: reader.log_state())
        after = state.horizon
        while after < state.head:
            page, after = await self._readers.run(partial(to_erase, after=after, wanted=wanted))
            if page:
                yield page

    async def _look_for(self, job_ids: Collection[str]) -> None:
        """Look for the request ids of these jobs, now or later."""
        self._ids.update(job_ids)
        if len(self._ids) >= IDS_AT_ONCE:
            await self._forget_requests()

    async def _forget_requests(self) -> None:
        ids, self._ids = self._ids, set()
        since: int | None = 0 if ids else None
        while since is not None:
            page = await self._readers.run(partial(_requests, since=since))
            found = [
                (request, job_id) for request in page.requests for job_id in request.job_ids.split(" ") if job_id in ids
            ]
            self._done.request_ids += await self._in_slices(found, lambda store, some: store.erase_requests(some))
            since = page.next_time

    async def _erase_events(self, wanted: EventFilter) -> None:
        def write(store: Transaction, some: Sequence[tuple[ErasedEvent, ErasedLane]]) -> int:
            count = store.erase_events([event for event, _ in some])
            if count:
                store.erase_lanes(list(dict.fromkeys(lane for _, lane in some)))
            return count

        async for page in self._pages(wanted):
            self._done.events += await self._in_slices(erased(page), write)

    async def _in_slices(self, rows: Sequence[T], write: Callable[[Transaction, Sequence[T]], int]) -> int:
        """Write these rows. Returns how many were changed."""
        slices = Slices(self._committer, self._clock, ROWS_AT_ONCE)
        begun = changed = 0

        def write_some(store: Transaction, limit: int) -> int:
            return write(store, rows[begun : begun + limit])

        while begun < len(rows):
            limit = slices.rows
            changed += await slices.run(write_some)
            begun += limit
        return changed

    async def _clear(self) -> None:
        pace = Pace(TASK_SHARE, CLEARING_TIME, PAGES_AT_ONCE)
        page: int | None = CLEAR_FROM_END
        tries = 0
        while page is not None:
            limit = max(PAGES_MIN, pace.rows)
            cleared, spent = await self._committer.run_apart(_clearing(page, limit))
            page, tries = cleared.page, tries + 1 if cleared.is_blocked else 0
            if tries >= BLOCKED_TRIES_MAX:
                raise _KeptFromEnding(
                    "the jobs are erased, but their bytes may still be in the file: a program, such as a backup, has"
                    " been reading an old state of the store for a minute"
                )
            rest = TRY_AGAIN if tries else pace.after(limit, spent, self._committer.backlog)
            if rest:
                await pause(self._clock, rest)


def _matching(
    reader: Reader, *, wanted: JobFilter, after: Position | None, limit: int
) -> tuple[list[MatchedJob], Position | None]:
    return reader.matching_jobs(wanted, after, limit)


def _stored(reader: Reader, *, job_ids: Sequence[str]) -> Collection[str]:
    return reader.jobs(job_ids)


def _requests(reader: Reader, *, since: int) -> RequestPage:
    return reader.requests_from(since, REQUESTS_AT_ONCE)


def _clearing(page: int, limit: int) -> Callable[[Store], tuple[Clearing, int]]:
    def step(store: Store) -> tuple[Clearing, int]:
        began = time.perf_counter()
        cleared = store.clear_unused(page, limit)
        return cleared, round((time.perf_counter() - began) * SECOND)

    return step
