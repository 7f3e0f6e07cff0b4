"""An operator of a run who has jobs forgotten, one by its id or all of a source, while everybody is at work."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb

from ..support.waiting import pause
from .bulk_operators import FINAL, TOLD_AGAIN, OfMany, note_failure
from .clients import Shared, Stubs
from .history import ANSWERED, REFUSED, Bulk, Erasing

ERASE_TIMEOUT_S = 10.0
"""A run reads the whole store."""

LOOKED_AT = 50
"""Jobs of which one is erased."""

TIMES = 2
"""How often a source is erased while it has unfinished jobs."""

STRAGGLERS_S = 13.0
"""How long a call that was given up may be in a replica that is frozen, and be carried out when that goes on."""


class Eraser(OfMany):
    """Erases one thing at a time.

    The request ids of calls about an erased job are forgotten: a repeated Create would make another job of the same id,
    of which the judge knows nothing. So nothing is erased whose creation may still be repeated, nor is it repeated
    afterwards.
    """

    def __init__(self, name: str, shared: Shared, stubs: Sequence[Stubs], rng: random.Random) -> None:
        super().__init__(name, shared, stubs, rng)
        self.counts: Counter[str] = Counter()

    @property
    def _stragglers_s(self) -> float:
        return STRAGGLERS_S if len(self._stubs) > 1 else 0.0

    async def run(self) -> None:
        """Go on until the run stops."""
        while not self._shared.stopping.is_set():
            await self._shared.present.wait()
            await (self._erase_one if self._rng.random() < 0.7 else self._erase_source)()
            await pause(self._rng.uniform(0.0, 0.4))

    async def _erase_one(self) -> None:
        """Erase one of the jobs that have ended lately, and now and then any other, which may be refused."""
        before = Shared.now() - self._stragglers_s
        old = {job_id for job_id, created in self._shared.created.items() if created < before}
        order = self._rng.choice([pb.LIST_ORDER_CREATE_TIME_DESC, pb.LIST_ORDER_CREATE_TIME_ASC])
        some = [job.id for job in await self.find(states=FINAL, order=order, page_size=LOOKED_AT)]
        if self._rng.random() < 0.1:
            some = self._rng.sample(sorted(old), min(len(old), LOOKED_AT))
        for job_id in self._rng.sample(some, len(some)):
            is_safe = job_id in old and not self._shared.in_flight[job_id]
            if is_safe and job_id not in self._shared.forgotten:
                self._shared.forgotten.add(job_id)
                await self._erase(Erasing(job_id=job_id))
                return

    async def _erase_source(self) -> None:
        """End all jobs of a source to which no more are added, and erase them."""
        source_id = self._shared.private_source
        self._shared.private += 1
        since = Shared.now()
        # Some requests are made in one moment, and sent in the next.
        await pause(0.1)
        while self._shared.in_flight[source_id] or Shared.now() < since + self._stragglers_s:
            await pause(0.05)
            if self._shared.stopping.is_set():
                return
        self._shared.forgotten |= self._shared.of_source[source_id]
        if self._rng.random() < 0.8:
            await self._end(source_id)
        for _ in range(TIMES):
            erasing = Erasing(source_id=source_id)
            await self._erase(erasing)
            self.counts["sources erased"] += erasing.outcome == ANSWERED
            if erasing.outcome == REFUSED or not erasing.unfinished or self._shared.stopping.is_set():
                break
            await pause(0.3)

    async def _end(self, source_id: str) -> None:
        """Cancel what is left of a source."""
        mark = self._shared.mark()
        request = pb.CancelManyRequest(filter=pb.JobFilter(source_id=source_id), reason=mark, request_id=f"id-{mark}")
        bulk = Bulk("CancelMany", request.request_id, source_id=source_id, marker=mark, invoked=Shared.now())
        self._shared.bulks.append(bulk)
        while not (bulk.is_over or self._shared.stopping.is_set()):
            await self.ask_for_many(bulk, request)
            await pause(0.02)
        bulk.returned = Shared.now()

    async def _erase(self, erasing: Erasing) -> None:
        """Call until there is an answer, as an interrupted call has erased a part; and now and then once more."""
        request = mpb.EraseRequest(id=erasing.job_id, source_id=erasing.source_id)
        erasing.invoked = Shared.now()
        self._shared.erasings.append(erasing)
        while not self._shared.stopping.is_set():
            erasing.tries += 1
            await self._try(erasing, request)
            is_final = erasing.outcome == REFUSED and erasing.reason not in TOLD_AGAIN
            if is_final or (erasing.outcome == ANSWERED and self._rng.random() < 0.8):
                break
            await pause(self._rng.uniform(0.02, 0.1))
        erasing.returned = Shared.now()
        self.counts["erasures answered"] += erasing.outcome == ANSWERED
        self.counts["jobs erased"] += erasing.jobs

    async def _try(self, erasing: Erasing, request: mpb.EraseRequest) -> None:
        at = self._rng.choice(self._stubs)
        try:
            answer = await at.maintenance.Erase(request, timeout=ERASE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            note_failure(erasing, error)
            return
        erasing.outcome, erasing.code, erasing.reason = ANSWERED, "OK", ""
        erasing.jobs, erasing.unfinished = erasing.jobs + answer.jobs, answer.unfinished
        self.counts["events erased by calls"] += answer.events
