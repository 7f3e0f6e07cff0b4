"""Planners of a run, who make graphs of jobs that need others, and groups that grow while they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.waiting import pause
from .clients import Client
from .history import ANSWERED, UNKNOWN, Call
from .server_process import GROUPED, JOB_TYPES
from .workers import Producer, Worker

CONDITIONS = ["COMPLETED"] * 4 + ["FINAL"] * 2 + ["NOT_COMPLETED"]

NEEDS_MAX = 3

GRAPH_MAX = 10
"""Jobs of one batch that need each other."""

OLD = 0.03
"""How likely a need is one on an older job of anybody, which may have ended, or be deleted."""

REMEMBERED = 30
"""Groups that a planner still adds to."""

TOLERATED = (0, 0, 1, 3, -1)


def relate(
    request: pb.CreateRequest,
    needs: Mapping[str, str] | None = None,
    group_id: str = "",
    by: job_pb2.Job | None = None,
) -> pb.CreateRequest:
    """Say how a new job is related to others, also in its metadata: there the judge reads what events do not say."""
    for job_id, condition in (needs or {}).items():
        request.needs.add(job_id=job_id, condition=job_pb2.NeedCondition.Value(f"NEED_CONDITION_{condition}"))
    if needs:
        request.metadata.update({"needs": dict(needs)})
    request.group_id = group_id
    if by is not None:
        request.by.id, request.by.attempt = by.id, by.attempt
        request.metadata.update({"by": [by.id, by.attempt]})
    return request


def named(requests: Iterable[pb.CreateRequest]) -> tuple[str, ...]:
    """The other jobs that these name."""
    found = [[*(need.job_id for need in each.needs), each.group_id, each.by.id] for each in requests]
    return tuple({job_id for some in found for job_id in some if job_id})


class Related(Client):
    """A client that creates jobs which are related to others."""

    def _needs(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Needs on some of these jobs."""
        some = self._rng.sample(job_ids, min(len(job_ids), self._rng.randrange(NEEDS_MAX + 1)))
        return {job_id: self._rng.choice(CONDITIONS) for job_id in some}

    async def _create_all(self, requests: Sequence[pb.CreateRequest]) -> bool:
        """Create all of these jobs in one batch. Returns whether that was answered."""
        for each in requests:
            each.request_id = f"request-{each.id}"
        job_ids = tuple(each.id for each in requests)
        call = Call("BatchCreate", "", UNKNOWN, requests[0].request_id, changes=False, job_ids=job_ids)
        call.names = named(requests)
        await self._make(call, pb.BatchCreateRequest(requests=requests))
        return call.outcome == ANSWERED

    async def _close(self, group_id: str) -> None:
        await self._make(Call("CloseGroup", group_id, UNKNOWN, changes=False), pb.CloseGroupRequest(id=group_id))


class GrowingWorker(Worker, Related):
    """A worker whose jobs find more to do: they create other members of their own group, and sometimes close it."""

    async def _do(self, job: job_pb2.Job) -> None:
        if job.group_id and self._rng.random() < 0.5:
            await self._grow(job)
        await super()._do(job)

    async def _grow(self, job: job_pb2.Job) -> None:
        requests = []
        for _ in range(self._rng.randrange(1, 4)):
            request = self._create_request(self._new_id(), "")
            request.job_type = job.job_type
            requests.append(relate(request, {}, job.group_id, job))
        doings = [self._create_all(requests)]
        if self._rng.random() < 0.3:
            await asyncio.gather(self._close(job.group_id), *doings)
        else:
            await asyncio.gather(*doings)
        self.counts["groups grown"] += 1


class Planner(Producer, Related):
    """Makes graphs and groups, and cancels and closes some of what it has made."""

    planned = 0
    """How many graphs and groups were answered."""

    async def run(self) -> None:
        """Make plans until the run stops."""
        self._open: list[str] = []
        doings = [self._graph, self._graph, self._group, self._group, self._whole_group, self._more, self._more]
        while not self._shared.stopping.is_set():
            await self._rng.choice(doings)()
            await pause(self._rng.uniform(0.0, 0.3))

    def request(self, job_id: str, mark: str) -> pb.CreateRequest:
        """A job for workers, or for those who begin jobs by hand."""
        if self._rng.random() < 0.2:
            request = self._create_request(job_id, mark)
            request.job_type = self._rng.choice(list(JOB_TYPES))
            return request
        return super().request(job_id, mark)

    async def _graph(self) -> None:
        """Jobs that need each other, and some others."""
        requests = self._related(self._rng.randrange(2, GRAPH_MAX), [])
        self.planned += await self._create_all(requests)
        await self._meddle_with([each.id for each in requests])

    def _related(self, count: int, before: Sequence[str], group_id: str = "") -> list[pb.CreateRequest]:
        """So many jobs, of which each needs some of those before it."""
        known, requests = list(before), []
        for _ in range(count):
            needs = self._needs(known[-GRAPH_MAX:])
            if self._rng.random() < OLD and self._shared.job_ids:
                needs[self._rng.choice(self._shared.job_ids[-300:])] = self._rng.choice(CONDITIONS)
            job_id = self._new_id()
            needs.pop(job_id, None)
            requests.append(relate(self.request(job_id, ""), needs, group_id))
            known.append(job_id)
        return requests

    async def _meddle_with(self, job_ids: Sequence[str]) -> None:
        """Begin one by hand, which may wait for others, or cancel one."""
        habit = self._rng.random()
        if habit < 0.3:
            await self._work(self._rng.choice(job_ids))
        elif habit < 0.6:
            await self._cancel(self._rng.choice(job_ids))

    def _group_request(self, mark: str) -> pb.CreateRequest:
        """A group, at times in another."""
        around = self._rng.choice(self._open) if self._open and self._rng.random() < 0.3 else ""
        job_type = self._rng.choice(list(GROUPED))
        request = pb.CreateRequest(id=self._new_id(), job_type=job_type, group_id=around, labels=self._labels())
        request.group.tolerated_failures = self._rng.choice(TOLERATED)
        request.group.on_excess = job_pb2.OnExcess.ValueType(self._rng.randrange(3))
        if mark:
            request.metadata.update({"mark": mark})
        return request

    async def _group(self) -> None:
        """A group that is open for a while."""
        mark = self._shared.mark()
        request = self._group_request(mark)
        await self._change("Create", request, mark)
        self._open = [*self._open[-REMEMBERED:], request.id]
        await self._add_to(request.id)

    async def _whole_group(self) -> None:
        """A group with its members and a job that needs it, all at once."""
        group = self._group_request("")
        members = self._related(self._rng.randrange(5), [], group.id)
        after = relate(self.request(self._new_id(), ""), {group.id: self._rng.choice(CONDITIONS)})
        self.planned += await self._create_all([group, *members, after])
        await self._maybe_end(group.id)

    async def _more(self) -> None:
        if self._open:
            await self._add_to(self._rng.choice(self._open))

    async def _add_to(self, group_id: str) -> None:
        """Add members, while others may close or cancel the group."""
        requests = self._related(self._rng.randrange(1, 5), [], group_id)
        adding = asyncio.ensure_future(self._create_all(requests))
        if self._rng.random() < 0.5:
            await self._maybe_end(group_id)
        self.planned += await adding
        await self._maybe_end(group_id)

    async def _maybe_end(self, group_id: str) -> None:
        habit = self._rng.random()
        if habit < 0.5:
            await self._close(group_id)
        elif habit < 0.6:
            await self._cancel(group_id)
