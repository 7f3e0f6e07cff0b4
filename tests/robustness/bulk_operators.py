"""Operators of a run who have the work of ended jobs done once more, of one or of many, and who change many at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.waiting import pause
from .clients import BATCHED, SINGLE, TENANTS, Client, Shared, Stubs, label_texts, may_be_done
from .history import ANSWERED, REFUSED, UNKNOWN, Bulk, BulkAnswer, Call, Erasing
from .nemesis import MET
from .recording import ending_of, state_name

FINAL = (job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_PERMANENTLY_FAILED, job_pb2.JOB_STATE_CANCELLED)

FAILED_ONES = (job_pb2.JOB_STATE_PERMANENTLY_FAILED, job_pb2.JOB_STATE_CANCELLED)

BULK_TIMEOUT_S = 7.0
"""A call works for 5 s, and answers then."""

TOLD_AGAIN = frozenset({"DRAINING", "OVERLOADED", "STORE_UNAVAILABLE"})

REQUESTS: dict[str, Any] = {
    "RecreateMany": pb.RecreateManyRequest,
    "RetryMany": pb.RetryManyRequest,
    "CancelMany": pb.CancelManyRequest,
}


class Finder(Client):
    """A client that looks for jobs by what they have."""

    async def find(self, **wanted: Any) -> Sequence[job_pb2.Job]:
        """The jobs of the first page; none if there is no answer."""
        try:
            return (await self._at.jobs.List(pb.ListRequest(**wanted), timeout=BULK_TIMEOUT_S)).jobs
        except grpc.aio.AioRpcError as error:
            if error.code() not in MET:
                raise
            self._move()
            return []


class Recreator(Finder):
    """Recreates one job after the other, at times twice at once under one request id."""

    recreated = 0
    """How many jobs were made."""

    async def run(self) -> None:
        """Go on until the run stops."""
        while not self._shared.stopping.is_set():
            await pause(self._rng.uniform(0.0, 0.15))
            job = await self._any() if self._rng.random() < 0.3 else await self._ended()
            if job is not None:
                await self._one(job.id)

    async def _any(self) -> job_pb2.Job | None:
        """Any job, of which one in ten is not to be recreated, or not yet. Whole batches are recreated by another."""
        job = await self._get(self._rng.choice(self._shared.job_ids or ["nobody"]))
        if job is None or BATCHED in job.labels:
            return None
        return job if job.state in FINAL or self._rng.random() < 0.1 else None

    async def _ended(self) -> job_pb2.Job | None:
        """One of the jobs that have ended lately."""
        found = await self.find(labels={"kind": SINGLE}, states=FINAL, page_size=20)
        return self._rng.choice(found) if found else None

    async def _one(self, job_id: str) -> None:
        request = pb.RecreateRequest(id=job_id)
        if self._rng.random() < 0.7:
            request.request_id = f"request-{self._shared.mark()}"
        times = 2 if request.request_id and self._rng.random() < 0.2 else 1
        made = await asyncio.gather(*(self._recreate(request) for _ in range(times)))
        found = {job.id for job in made if job is not None}
        self._shared.meet(found)
        self.recreated += len(found)

    async def _recreate(self, request: pb.RecreateRequest) -> job_pb2.Job | None:
        call = Call("Recreate", "", UNKNOWN, request.request_id, changes=False, names=(request.id,))
        return await self._make(call, request)


def note_failure(made: Bulk | Erasing, error: grpc.aio.AioRpcError) -> None:
    """Write down that a call has ended so."""
    ending = ending_of(error)
    made.outcome = UNKNOWN if may_be_done(ending) else REFUSED
    made.code, made.reason = ending.code, ending.reason


class OfMany(Finder):
    """A client that changes many jobs."""

    async def ask_for_many(self, bulk: Bulk, request: Any) -> None:
        """Go on with work on many jobs, and note the answer."""
        invoked = Shared.now()
        try:
            answer = await getattr(self._rng.choice(self._stubs).jobs, bulk.rpc)(request, timeout=BULK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            note_failure(bulk, error)
            return
        bulk.outcome, bulk.code, bulk.reason = ANSWERED, "OK", ""
        told = answer.progress
        skipped = sum(each.count for each in told.skipped)
        bulk.answers.append(
            BulkAnswer(invoked, Shared.now(), told.matched, told.done, skipped, told.more, told.limit_reached)
        )


class BulkOperator(OfMany):
    """Changes many jobs by filter, and goes on with that until it is told that all is done."""

    def __init__(self, name: str, shared: Shared, stubs: Sequence[Stubs], rng: random.Random) -> None:
        super().__init__(name, shared, stubs, rng)
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Go on until the run stops."""
        doings = [self._whole_batch, self._whole_batch, self._some, self._some, self._look]
        await pause(1.0)
        await self._whole_batch()
        while not self._shared.stopping.is_set():
            await self._rng.choice(doings)()
            await pause(self._rng.uniform(0.0, 0.4))

    async def _whole_batch(self) -> None:
        """End or retry what is in a batch, to which no more are added, and recreate it. Nobody else does that."""
        labels = {BATCHED: str(self._shared.batch)}
        self._shared.batch += 1
        first = self._rng.choice(["CancelMany", "RetryMany", ""])
        if first:
            await self._begin(first, labels)
        states = FAILED_ONES if self._rng.random() < 0.3 else ()
        limit = self._rng.choice([0, 0, 0, 3])
        await self._begin("RecreateMany", labels, states=states, limit=limit, is_alone=True)
        await self._meet(labels)

    async def _meet(self, labels: Mapping[str, str]) -> None:
        """Let the others know what was made."""
        found = await self.find(labels=labels, page_size=100)
        self._shared.meet(job.id for job in found if job.recreated_from)

    async def _some(self) -> None:
        """Change a few jobs that something else has in common."""
        tenant = {"tenant": self._rng.choice(TENANTS)}
        match self._rng.choice(list(REQUESTS)):
            case "RetryMany":
                await self._begin("RetryMany", tenant, job_types=["resting"])
            case "CancelMany":
                limit, waits = self._rng.choice([1, 2, 4]), [job_pb2.WAIT_REASON_TIME]
                await self._begin("CancelMany", tenant, limit=limit, wait_reasons=waits)
            case _:
                job = await self._get(self._rng.choice(self._shared.job_ids or ["nobody"]))
                if job is not None and job.state in FINAL:
                    # Both ended with something that few others did.
                    code = job.last_error.code
                    worker = "" if code else job.worker
                    await self._begin("RecreateMany", {"kind": SINGLE}, limit=3, error_code=code, worker=worker)

    async def _begin(
        self, rpc: str, labels: Mapping[str, str], *, limit: int = 0, is_alone: bool = False, **wanted: Any
    ) -> None:
        """Change the jobs with these labels that are wanted, until all is done."""
        request = REQUESTS[rpc](filter=pb.JobFilter(labels=labels, **wanted), limit=limit)
        request.request_id = f"request-{self._shared.mark()}"
        bulk = Bulk(rpc, request.request_id, labels=label_texts(labels), limit=limit, is_alone=is_alone)
        bulk.states = tuple(state_name(state) for state in wanted.get("states", ()))
        bulk.job_types = tuple(wanted.get("job_types", ()))
        bulk.worker, bulk.error_code = wanted.get("worker", ""), wanted.get("error_code", "")
        if rpc == "CancelMany":
            request.reason = bulk.marker = self._shared.mark()
        elif rpc == "RetryMany":
            request.immediately = self._rng.random() < 0.5
        bulk.invoked = Shared.now()
        self._shared.bulks.append(bulk)
        while not (bulk.is_over or self._shared.stopping.is_set()):
            await self._shared.present.wait()
            times = 2 if self._rng.random() < 0.2 else 1
            await asyncio.gather(*(self.ask_for_many(bulk, request) for _ in range(times)))
            if bulk.outcome == REFUSED and bulk.reason not in TOLD_AGAIN:
                break
            await pause(self._rng.uniform(0.0, 0.05))
        if self._rng.random() < 0.3:
            # What is done is not done again.
            await self.ask_for_many(bulk, request)
        bulk.returned = Shared.now()
        self.counts[f"{rpc} done"] += bulk.is_over
        self.counts["jobs changed in bulk"] += max((answer.done for answer in bulk.answers), default=0)

    async def _look(self) -> None:
        """See what would be done to all, and do nothing."""
        kind = REQUESTS[self._rng.choice(list(REQUESTS))]
        call: Any = getattr(self._at.jobs, kind.DESCRIPTOR.name.removesuffix("Request"))
        try:
            await call(kind(all=True, dry_run=True), timeout=BULK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() not in MET:
                raise
            self._move()
        else:
            self.counts["jobs counted for a bulk"] += 1
