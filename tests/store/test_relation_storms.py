"""Random needs and groups, decided by real batches on real stores, and on PostgreSQL by several replicas at once: every
job ends, and all that is counted equals a recount."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from random import Random

import pytest

from jobstate_server.clock import SystemClock
from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.filters import JobFilter, Order
from jobstate_server.domain.groups import TOLERATES_ANY, GroupPolicy, OnExcess
from jobstate_server.domain.job import JobState, Usage
from jobstate_server.domain.needs import Need, NeedCondition
from jobstate_server.engine.outcomes import DeletedOutcome, Outcome
from jobstate_server.engine.writer import Writer
from jobstate_server.store.base import Store
from jobstate_server.store.check import check

from ..unit.support import a_decider
from ..unit.test_needs_in_batches import TYPE, create
from .support import PATIENCE_S, UNBOUNDED, Home, PostgresHome, SqliteHome, opened, reading

BATCHES = 60
"""Of each replica."""

UNFINISHED = tuple(state for state in JobState if not state.is_final)


class Replica:
    """One server, with its callers and workers."""

    def __init__(self, store: Store, number: int, seed: int) -> None:
        self.store = store
        self.writer = Writer(store, a_decider(), SystemClock(), restart_grace=0)
        self._random = Random(f"{seed} {number}")
        self._prefix = f"{number}-"
        self._names: list[str] = []
        self._groups: list[str] = []

    def storm(self) -> None:
        """Batches of calls of all kinds."""
        for _ in range(BATCHES):
            self.writer.commit([self._call() for _ in range(self._random.randint(1, 6))])
            self.serve()

    def serve(self) -> None:
        """Serve what is due, and work on what can be begun."""
        self.writer.commit([c.ServeDue(limit=self._random.choice([2, 512]), caller=SERVER)])
        (verdict,) = self.writer.commit([c.Acquire(job_types=(TYPE,), max_jobs=self._random.randint(1, 8))]).verdicts
        assert isinstance(verdict, Outcome)
        ends: list[c.Command] = []
        for job in verdict.jobs:
            usage = Usage(tokens=self._random.randint(0, 50))
            ends.append(c.UpdateProgress(job_id=job.id, attempt=job.attempt, progress=40, usage=usage))
            if self._random.random() < 0.8:
                ends.append(c.Complete(job_id=job.id, attempt=job.attempt))
            else:
                ends.append(c.Fail(job_id=job.id, attempt=job.attempt, retryable=False))
        self.writer.commit(ends)

    def close_all(self) -> None:
        """Close the groups of this replica."""
        self.writer.commit([c.CloseGroup(job_id=group_id) for group_id in self._groups])

    def _call(self) -> c.Command:
        kind = self._random.choices(["job", "group", "batch", "cancel", "close"], [8, 2, 1, 1, 1])[0]
        if kind == "cancel" and self._names:
            return c.Cancel(job_id=self._any(self._names))
        if kind == "close" and self._groups:
            return c.CloseGroup(job_id=self._any(self._groups))
        if kind == "group":
            return self._new_group()
        if kind == "batch":
            group = self._new_group()
            members = [create(self._name(), group_id=group.job_id) for _ in range(3)]
            return c.BatchCreate(creates=(group, *members, create(self._name(), group.job_id)))
        return self._new_job()

    def _new_job(self) -> c.Create:
        # A job is needed once: requests that name it twice are refused before.
        needed = {self._any(self._names) for _ in range(self._random.choice([0, 0, 1, 3])) if self._names}
        needs = [Need(job_id, self._random.choice(list(NeedCondition))) for job_id in sorted(needed)]
        return create(self._name(), *needs, **self._place())

    def _new_group(self) -> c.Create:
        tolerated = self._random.choice([TOLERATES_ANY, 0, 1, 3])
        group = create(self._name(), group=GroupPolicy(tolerated, self._random.choice(list(OnExcess))), **self._place())
        self._groups.append(group.job_id)
        return group

    def _place(self) -> dict[str, str]:
        return {"group_id": self._any(self._groups)} if self._groups and self._random.random() < 0.5 else {}

    def _name(self) -> str:
        self._names.append(f"{self._prefix}{len(self._names)}")
        return self._names[-1]

    def _any(self, names: list[str]) -> str:
        """Mostly a new one. With other replicas, also one of theirs that may be there."""
        name = names[max(0, len(names) - 1 - int(self._random.expovariate(0.1)))]
        return name if self._random.random() < 0.7 else f"{self._random.randint(0, 1)}-{name.partition('-')[2]}"


def unfinished(store: Store) -> int:
    with reading(store) as reader:
        wanted = JobFilter(states=UNFINISHED)
        return len(reader.list_jobs(wanted, Order.OLDEST_FIRST, None, 10_000, UNBOUNDED).jobs)


def url_of(home: Home) -> str:
    if isinstance(home, SqliteHome):
        return f"sqlite:///{home.path}"
    assert isinstance(home, PostgresHome)
    return home.url


@pytest.mark.parametrize("seed", range(2))
def test_every_job_ends_and_every_count_is_right(home: Home, seed: int) -> None:
    count = 1 if isinstance(home, SqliteHome) else 2
    with ExitStack() as stack:
        stores = [stack.enter_context(opened(home, SystemClock())) for _ in range(count)]
        one = stores[0]
        replicas = [Replica(store, number, seed) for number, store in enumerate(stores)]
        with ThreadPoolExecutor(len(replicas)) as threads:
            list(threads.map(Replica.storm, replicas, timeout=2 * PATIENCE_S))
        problems = check(url_of(home)).problems
        assert problems == [], "\n".join(problems)
        for replica in replicas:
            replica.close_all()
        until = time.monotonic() + PATIENCE_S
        while unfinished(one):
            assert time.monotonic() < until, "some jobs do not end"
            for replica in replicas:
                replica.serve()

        problems = check(url_of(home)).problems
        assert problems == [], "\n".join(problems)
        clean_up(replicas[0])
        with reading(one) as reader:
            assert not reader.list_jobs(JobFilter(), Order.OLDEST_FIRST, None, 1, UNBOUNDED).jobs
            for table in ("need", "needed", "members"):
                ((left,),) = reader._execute(f"SELECT count(*) FROM {table}", ())  # type: ignore[attr-defined]  # noqa: S608
                assert left == 0, table


def clean_up(replica: Replica) -> None:
    """Delete all jobs, now that nothing is kept for others."""
    after = None
    while True:
        (outcome,) = replica.writer.commit([c.DeleteFinished(before=2**62, after=after, limit=50)]).verdicts
        assert isinstance(outcome, DeletedOutcome)
        if not outcome.found:
            return
        assert len(outcome.deleted) == outcome.found
