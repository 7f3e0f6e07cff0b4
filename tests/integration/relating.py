"""What tests of needs and groups share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import complete, create, fail, history, start
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.server import Client, Running

NEEDS, TURN, TIME = job_pb2.WAIT_REASON_NEEDS, job_pb2.WAIT_REASON_TURN, job_pb2.WAIT_REASON_TIME
BY_NEED, BY_GROUP = job_pb2.CANCEL_CAUSE_NEED, job_pb2.CANCEL_CAUSE_GROUP
FINAL, NOT_COMPLETED = job_pb2.NEED_CONDITION_FINAL, job_pb2.NEED_CONDITION_NOT_COMPLETED

ENDS = {
    event_pb2.EVENT_TYPE_COMPLETED,
    event_pb2.EVENT_TYPE_PERMANENTLY_FAILED,
    event_pb2.EVENT_TYPE_CANCELLED,
}


def need(job_id: str, condition: int = 0) -> pb.Need:
    """A need, of COMPLETED unless a condition is given."""
    return pb.Need(job_id=job_id, condition=job_pb2.NeedCondition.ValueType(condition))


async def create_with_needs(client: Client, job_id: str, *job_ids: str, **fields: Any) -> job_pb2.Job:
    """Create a job that needs these to be COMPLETED."""
    return await create(client, job_id, needs=[need(needed) for needed in job_ids], **fields)


async def create_group(client: Client, job_id: str = "group", **fields: Any) -> job_pb2.Job:
    """Create a group. Fields of its policy are among the others."""
    names = {field.name for field in job_pb2.GroupPolicy.DESCRIPTOR.fields}
    policy = {name: fields.pop(name) for name in list(fields) if name in names}
    return await create(client, job_id, "import_day", group=job_pb2.GroupPolicy(**policy), **fields)


async def close(client: Client, job_id: str = "group") -> job_pb2.Job:
    """CloseGroup."""
    return (await client.jobs.CloseGroup(pb.CloseGroupRequest(id=job_id))).job


async def work(client: Client, *job_ids: str) -> None:
    """Start and complete these jobs."""
    for job_id in job_ids:
        await start(client, job_id)
        await complete(client, job_id)


async def fail_for_good(client: Client, *job_ids: str) -> None:
    """Start these jobs and fail them, not to be retried."""
    for job_id in job_ids:
        await start(client, job_id)
        await fail(client, job_id, retryable=False)


async def served(running: Running, clock: WatchedClock) -> None:
    """Wait until the server has done all that is due now."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            clock.advance(0)
            due = await running.server.committer.run(lambda transaction: transaction.next_due())
            assert not isinstance(due, Exception)
            if due is None or due > clock.now():
                return
            await asyncio.sleep(0)


async def states(client: Client, *job_ids: str) -> list[str]:
    """The states of these jobs, by their names."""
    found = [(await client.jobs.Get(pb.GetRequest(id=job_id))).job.state for job_id in job_ids]
    return [job_pb2.JobState.Name(state).removeprefix("JOB_STATE_") for state in found]


async def order_of_ends(client: Client) -> list[str]:
    """The ids of the jobs that have ended, in the order of the log."""
    return [event.job.id for event in await history(client) if event.type in ENDS]


async def listed(client: Client, **filters: Any) -> list[str]:
    """The ids of all jobs that a List finds, read page by page."""
    found: list[str] = []
    request = pb.ListRequest(order=pb.LIST_ORDER_CREATE_TIME_ASC, page_size=2, **filters)
    while True:
        page = await client.jobs.List(request)
        found += [job.id for job in page.jobs]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def counts(job: job_pb2.Job) -> Sequence[int]:
    """Total, completed, permanently failed and cancelled members of a group."""
    members = job.members
    return members.total, members.completed, members.permanently_failed, members.cancelled
