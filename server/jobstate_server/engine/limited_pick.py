"""Picks ready jobs of types that have limits or lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

from jobstate_server.domain.dispatch_order import ReadyJobs
from jobstate_server.domain.job import INT64_MAX, Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.lane_moves import LaneMoves, moved
from jobstate_server.domain.lanes import NOTHING_COUNTED, counts_of
from jobstate_server.domain.reads import FoundPlace, LaneRange, Reads
from jobstate_server.domain.turns import TypeState, turns_of
from jobstate_server.domain.waiting import is_ready
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.enough import Enough
from jobstate_server.engine.wanted import Wanted
from jobstate_server.store.base import Transaction
from jobstate_server.store.records import ReadyFound

PICKS_MAX = 4
"""How often jobs are selected in place of those that others have locked."""


class LimitedPick:
    """One pick: it says which jobs will be handed out, as far as that is known before the batch is decided."""

    def __init__(
        self,
        job_types: JobTypes,
        transaction: Transaction,
        batch: Batch,
        wanted: Wanted,
        states: Mapping[str, TypeState],
        turns: Collection[str],
        ends: Sequence[Job],
    ) -> None:
        """
        Args:
            states: the types of which something is stored.
            turns: the types of which this server may hand out jobs.
            ends: the jobs of the batch whose places its commands may free.
        """
        self._job_types = job_types
        self._transaction = transaction
        self._batch = batch
        self._wanted = wanted
        self._states = states
        self._turns = turns
        self._ends = ends
        self._in_batch = Counter((job.job_type, job.lane) for job in batch.stored.values() if is_ready(job))
        """The stored jobs that the commands of the batch may take away, or have taken."""

    def take(self, limit: int, known: Collection[str]) -> ReadyFound:
        """Take the jobs that will be handed out, and others in place of those that other replicas have locked.

        Args:
            limit: how many jobs are enough.
            known: the ids of jobs that the batch has already.
        """
        seen: dict[str, None] = {}
        taken: list[Job] = []
        for _ in range(PICKS_MAX):
            chosen = self._choose(limit, seen.keys() - {job.id for job in taken})
            new = [job_id for job_id in chosen if job_id not in seen and job_id not in known]
            if not new:
                break
            seen.update(dict.fromkeys(new))
            taken += self._transaction.take_ready(new).jobs
            if len(taken) == len(seen):
                break
        return ReadyFound(taken, len(taken) == len(seen))

    def _choose(self, limit: int, locked: Collection[str]) -> Iterable[str]:
        """The ids of the jobs that will be handed out.

        Args:
            locked: jobs that others have locked. What a limit allows is for those behind them.
        """
        freed = self._freed()
        enough = self._enough(limit)
        ranges = self._ranges(freed, limit, len(locked))
        unsure = self._unsure(freed)
        ready = ReadyJobs(self._job_types, freed)
        for name in self._turns:
            if name in self._states:
                ready.know(self._states[name])
        lane_of: dict[str, tuple[str, str]] = {}
        for found in self._transaction.ready_places(ranges):
            if found.job_id not in locked and (self._wanted.is_first or _is_open(self._batch, found)):
                ready.add_place(*found)
                lane_of[found.job_id] = found.job_type, found.lane
        ids: dict[str, None] = {}
        for together in self._asked_together(unsure):
            places = ready.places_in_order(together, lambda _place: True, self._batch.now)
            ids.update((place.job_id, None) for place in enough.of(places, lambda place: lane_of[place.job_id]))
        return ids

    def _enough(self, limit: int) -> Enough:
        return Enough(limit, limit + len(self._ends), {(job.job_type, job.lane) for job in self._ends})

    def _asked_together(self, unsure: Collection[str]) -> Iterable[list[str]]:
        """The types whose jobs are put in one order.

        Jobs that the rate may stop do not take the place of those of other types. And a job that becomes ready in the
        batch may bring the turn of its lane forward: its type is not passed over because the first lane's job has a
        later place than those of other types.
        """
        for types in self._wanted.jobs:
            names = [name for name in types if name in self._turns]
            yield [name for name in names if name not in unsure]
            yield from ([name] for name in names if name in unsure)

    def _unsure(self, freed: LaneMoves) -> set[str]:
        """The types of which it is not certain yet in what order their lanes are, and how far their rates reach."""
        unsure = self._changing().intersection(self._states)
        for name in self._states if self._ends else ():
            if name in self._turns and freed.limits(name).rate is not None:
                # Which lanes use up the rate is known when the batch is decided.
                freed.limits(name).rate = None
                unsure.add(name)
        return unsure

    def _changing(self) -> set[str]:
        """The types of which the batch may make jobs ready, or change turns, if jobs of several are wanted together.

        Not all is known at the pick. What may change is assumed to.
        """
        if all(len(types) == 1 for types in self._wanted.jobs):
            return set()
        named = Reads()
        for command in self._wanted.whole_batch:
            command.add_reads(named)
        return named.job_types | {job.job_type for job in self._batch.jobs.values()}

    def _freed(self) -> LaneMoves:
        """What the batch adds to what is stored, when all the jobs that may end have given up their places."""
        moves = (
            LaneMoves(self._job_types) if self._wanted.is_first else self._batch.handing_out.moves.copy(self._states)
        )
        for job in self._ends:
            of_type = moves.of_type(job.job_type)
            is_stored = job.lane in self._states[job.job_type].lanes
            given_up = NOTHING_COUNTED.minus(counts_of(job))
            for move in (of_type, of_type.lane(job.lane)) if is_stored else (of_type,):
                move.counts = move.counts.plus(given_up)
        return moves

    def _ranges(self, freed: LaneMoves, limit: int, locked: int) -> list[LaneRange]:
        """Where to look for jobs, of which so many are locked."""
        enough = self._enough(limit + locked)
        gone = {} if self._wanted.is_first else _gone(self._batch)
        ranges: list[LaneRange] = []
        for name in self._turns:
            state = self._states.get(name)
            if state is None:
                step = self._job_types.policy(name).priority_step
                ranges.append(LaneRange(name, "", step, limit + locked, holds_jobs=False))
                continue
            if not self._wanted.is_first:
                now = self._batch.now
                state = moved(state, freed.of_type(name), freed.limits(name), gone.get(name, {}), now)
            ranges += self._ranges_of(state, freed, enough, locked)
        return ranges

    def _ranges_of(self, state: TypeState, freed: LaneMoves, enough: Enough, locked: int) -> list[LaneRange]:
        """Where to look for jobs of a type that has limits or lanes."""
        name, now = state.job_type, self._batch.now
        limits, move = freed.limits(name), freed.of_type(name)
        room = limits.room(state) - move.counts.running
        if room <= 0 or state.paused or limits.type_opens(state) > now:
            return []
        freed_in = {lane: -limits.under_way(each.counts) for lane, each in move.lanes.items()}
        turns = islice(turns_of(state, freed_in, limits, now), min(room + locked, INT64_MAX))
        counts = Counter(enough.of(turns, lambda lane: (name, lane)))
        for lane in counts:
            # Any of them may be the first of this lane, which has as many turns all the same.
            counts[lane] += locked
        for job_type, lane in self._in_batch:
            if job_type == name and (lane in counts or lane in state.lanes):
                counts[lane] = counts.get(lane, 0) + self._in_batch[job_type, lane]
        step, lanes = self._job_types.policy(name).priority_step, state.lanes
        return [
            LaneRange(name, lane, step, count, limits.holds_jobs, lane in lanes and lanes[lane].counts.ready <= count)
            for lane, count in counts.items()
        ]


def _gone(batch: Batch) -> dict[str, Counter[str]]:
    """How many stored jobs the batch has made other than ready, by type and lane."""
    gone: dict[str, Counter[str]] = {}
    for job in batch.stored.values():
        if is_ready(job) and not _is_still(batch.jobs.get(job.id), job.attempt):
            gone.setdefault(job.job_type, Counter())[job.lane] += 1
    return gone


def _is_open(batch: Batch, found: FoundPlace) -> bool:
    """Whether a place that is stored is still that of a ready job."""
    return found.job_id not in batch.stored or _is_still(batch.jobs.get(found.job_id), found.attempt)


def _is_still(job: Job | None, attempt: int) -> bool:
    return job is not None and job.attempt == attempt and is_ready(job)
