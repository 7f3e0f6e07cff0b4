"""The kinds of load, each with its witness: a sample of which the store cannot show every operation is thrown out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from . import messages
from .bench import Bench
from .messages import LIFECYCLE_CALLS, PERCENTAGES, Request
from .processes import JobServer, Target
from .samples import Finding, Sample, ratios, spread

CONNECTIONS = 4
BATCH = 100


class Workload(Protocol):
    """A kind of load."""

    unit: str
    """What one operation is, in the plural."""

    def run(self, target: Target) -> Sample:
        """One stretch of it, on a jobstate server or, where it can answer that, on the echo."""


def observed(
    bench: Bench, target: Target, load: Callable[[], Sample], events: int, commands: int | None = None
) -> Sample:
    """Run a load; add the server's processor time to its sample; check the sample against server and store."""
    before = target.counters() if isinstance(target, JobServer) else None
    cpu = target.cpu()
    sample = load()
    sample.server_cpu = target.cpu() - cpu
    if isinstance(target, JobServer) and before is not None:
        bench.witness(target, before, events, events if commands is None else commands)
    return sample


class Calls:
    """Unary calls that are a lottery over jobs: ``UpdateProgress`` or ``Get``."""

    def __init__(
        self, bench: Bench, job_ids: list[str], make: Callable[[str], list[Request]], *, changes: bool = True
    ) -> None:
        self._bench = bench
        self._changes = changes
        self.unit = "calls"
        shuffled = random.Random(7).choices(job_ids, k=bench.sizes.calls)
        self._chains = [make(job_id) for job_id in shuffled]

    def run(self, target: Target) -> Sample:
        events = len(self._chains) if self._changes else 0
        return observed(self._bench, target, lambda: self._bench.load.calls(target.address, self._chains), events)


class Lifecycles:
    """Whole lives of jobs as unary calls; one operation is one life."""

    unit = "lifecycles"

    def __init__(self, bench: Bench, reports: int = len(PERCENTAGES)) -> None:
        self._bench = bench
        self._reports = reports

    def run(self, target: Target) -> Sample:
        prefix, count = self._bench.name("life-"), self._bench.sizes.lifecycles
        chains = [messages.lifecycle_calls(f"{prefix}-{number}", self._reports) for number in range(count)]
        events = sum(map(len, chains))
        sample = observed(self._bench, target, lambda: self._bench.load.calls(target.address, chains), events)
        return replace(sample, ops=count)


class StreamProgress:
    """Reports over StreamUpdates, a stream on each connection; one operation is one update."""

    unit = "updates"

    def __init__(self, bench: Bench, job_ids: list[str], batch: int = BATCH) -> None:
        self._bench = bench
        quarter = (len(job_ids) + CONNECTIONS - 1) // CONNECTIONS
        parts = [job_ids[start : start + quarter] for start in range(0, len(job_ids), quarter)]
        count = bench.sizes.stream_batches
        self._streams = [messages.progress_batches(part, batch, count) for part in parts]
        self._events = len(parts) * count * batch

    def run(self, target: Target) -> Sample:
        return observed(
            self._bench, target, lambda: self._bench.load.batches(target.address, self._streams), self._events
        )


class StreamLifecycles:
    """Whole lives of jobs over StreamUpdates, 100 jobs in hand at a time; one operation is one life."""

    unit = "lifecycles"

    def __init__(self, bench: Bench, batch: int = BATCH, reports: int = len(PERCENTAGES)) -> None:
        self._bench = bench
        self._batch = batch
        self._reports = reports

    def run(self, target: Target) -> Sample:
        prefix, count = self._bench.name("swift-"), self._bench.sizes.stream_lifecycles
        streams = [
            messages.lifecycle_batches(
                [f"{prefix}-{stream}-{number}" for number in range(count)], self._batch, self._reports
            )
            for stream in range(CONNECTIONS)
        ]
        lives = count * CONNECTIONS
        sample = observed(
            self._bench,
            target,
            lambda: self._bench.load.batches(target.address, streams),
            lives * (LIFECYCLE_CALLS - len(PERCENTAGES) + self._reports),
        )
        if isinstance(target, JobServer):
            done = target.count("SELECT count(*) FROM job WHERE id LIKE ? AND state = 3", f"{prefix}-%")
            assert done == lives, f"{lives} lives ended well, the store holds {done}"
        return replace(sample, ops=lives)


class BatchCreates:
    """BatchCreate of 1,000, four under way; one operation is one job."""

    unit = "jobs"
    jobs_at_once = 1_000

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def run(self, target: Target) -> Sample:
        prefix, batches = self._bench.name("made-"), range(self._bench.sizes.create_batches)
        numbers = [range(batch * self.jobs_at_once, (batch + 1) * self.jobs_at_once) for batch in batches]
        chains = [
            [Request("BatchCreate", messages.batch_create([f"{prefix}-{number}" for number in some]))]
            for some in numbers
        ]
        jobs = len(chains) * self.jobs_at_once
        sample = observed(
            self._bench,
            target,
            lambda: self._bench.load.calls(target.address, chains, in_flight=CONNECTIONS),
            jobs,
            len(chains),
        )
        return replace(sample, ops=jobs)


def compared(
    what: str,
    unit: str,
    ours: list[Sample],
    theirs: list[Sample],
    *,
    reach: str = "",
    limit: float | None = None,
    per: float = 1.0,
    note: str = "",
) -> list[Finding]:
    """Two findings: how the rates compare, and how the processor time does, which a busy machine cannot move.

    Args:
        per: how many of the other's operations one of ours is held against, as 6 calls of an echo for a lifecycle.
    """
    rates = ratios([mine.rate for mine in ours], [other.rate / per for other in theirs])
    costs = ratios([other.cpu_us * per for other in theirs], [mine.cpu_us for mine in ours])
    other_unit = unit if per == 1.0 else f"calls ÷ {per:g}"
    return [
        Finding(
            what,
            reach,
            rates,
            limit,
            ours=spread([mine.rate for mine in ours], f" {unit}/s"),
            theirs=spread([other.rate / per for other in theirs], f" {other_unit}/s"),
            note=note,
        ),
        Finding(
            f"{what}: by server CPU",
            "",
            costs,
            ours=spread([mine.cpu_us for mine in ours], " µs"),
            theirs=spread([other.cpu_us * per for other in theirs], " µs"),
            note="the inverse of processor time per operation, which a busy machine does not change",
        ),
    ]
