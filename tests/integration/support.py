"""What the modules of this folder share: the RPCs of one job, the ways into each state, and longer calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb

from ..support.calls import cancel, complete, create, fail, get, retry, start, watching
from ..support.server import RESTING, Client, Running

on_shared = pytest.mark.asyncio(loop_scope="module")
"""For tests on the servers ``shared`` and ``stored``."""

EARLIEST = pb.WATCH_START_EARLIEST

JOB_RPCS: dict[str, type[Message]] = {
    "Get": pb.GetRequest,
    "Start": pb.StartRequest,
    "UpdateProgress": pb.UpdateProgressRequest,
    "Complete": pb.CompleteRequest,
    "Fail": pb.FailRequest,
    "Retry": pb.RetryRequest,
    "Cancel": pb.CancelRequest,
}
"""The RPCs that name one job."""

REPORTS: dict[str, type[Message]] = {name: JOB_RPCS[name] for name in ("UpdateProgress", "Complete", "Fail")}
"""Those of them that report on an attempt."""


def looks_like_a_label(key: str, value: str) -> str:
    """A text that together with its length is encoded as a label is."""
    encoded = job_pb2.Job(labels={key: value}).SerializeToString()
    length = (encoded[0] & 0x7F) | encoded[1] << 7
    text = encoded[2:].decode().ljust(length, "x")
    assert encoded in struct_pb2.Value(string_value=text).SerializeToString()
    return text


async def retry_immediately(client: Client, job_id: str) -> job_pb2.Job:
    """Retry without waiting for the backoff."""
    return await retry(client, job_id, immediately=True)


async def _fail_for_good(client: Client, job_id: str) -> None:
    await fail(client, job_id, retryable=False)


WAYS: dict[str, tuple[Callable[[Client, str], Awaitable[object]], ...]] = {
    "QUEUED": (),
    "PROCESSING": (start,),
    "PROCESSING, unclaimed": (start, fail, retry_immediately),
    "COMPLETED": (start, complete),
    "FAILED": (start, fail),
    "RETRYING": (start, fail, retry),
    "PERMANENTLY_FAILED, not retryable": (start, _fail_for_good),
    "PERMANENTLY_FAILED, exhausted": (start, fail),
    "CANCELLED": (cancel,),
}
"""How a job gets into each state."""


async def bring_to(running: Running, state: str, job_id: str = "job") -> job_pb2.Job:
    """Make a job whose failures rest, and lead it into a state of ``WAYS``."""
    await create(running, job_id, RESTING, max_retries=0 if "exhausted" in state else 3)
    for step in WAYS[state]:
        await step(running, job_id)
    job = await get(running, job_id)
    assert job_pb2.JobState.Name(job.state) == f"JOB_STATE_{state.partition(',')[0]}"
    return job


async def stale(client: Client, *, dry_run: bool = False) -> list[str]:
    """The jobs that CheckStale finds."""
    return list((await client.maintenance.CheckStale(mpb.CheckStaleRequest(dry_run=dry_run))).job_ids)


async def events_after(client: Client, cursor: str, **filters: Any) -> list[event_pb2.Event]:
    """Everything after a cursor."""
    request = pb.WatchEventsRequest(cursor=cursor, follow=False, **filters)
    async with watching(client, request) as watch:
        return [event for response in await watch.rest() for event in response.events]


async def live_out(client: Client, job_id: str = "job", job_type: str = "default", **fields: Any) -> None:
    """Create, start and complete a job: three events."""
    await create(client, job_id, job_type, **fields)
    await start(client, job_id)
    await complete(client, job_id)


def take_turns(running: Running, turns: int) -> None:
    """Let as many seconds pass for the parts that wait for the store."""
    server = running.server
    assert server.replication is not None
    for _ in range(turns):
        listener = server.replication.listener
        for part in (server.committer, server.readers, server.catch_up_readers, listener, server.supervisor):
            part.turn()
