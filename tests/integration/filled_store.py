"""What the tests of ``jobstate-server copy`` share: a store with a row of every kind, and short ways to read one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.clock import SystemClock
from jobstate_server.domain.durations import SECOND
from jobstate_server.store.base import Store
from jobstate_server.store.factory import open_store

from ..support.calls import SYNCED, cancel, complete, create, fail, report, retry, start, struct, watching
from ..support.clock import WatchedClock
from ..support.reads import reads
from ..support.server import Client, Running, serving
from .support import events_after


@contextmanager
def opened(url: str) -> Iterator[Store]:
    """The store of this URL, closed afterwards."""
    with closing(open_store(url, SystemClock())) as store:
        yield store


@asynccontextmanager
async def serving_at(url: str, clock: WatchedClock | None) -> AsyncIterator[Running]:
    """A server on the store of this URL."""
    async with serving(Path("unused"), clock, store=url) as running:
        yield running


def ignore(table: str, done: int, total: int) -> None:
    """No interest in progress."""


@dataclass
class Seen:
    """What was told of a store before it was copied."""

    cursors: list[str]
    suffixes: list[list[event_pb2.Event]]
    """What came after each cursor."""
    expired: str
    """A cursor that was good once."""


async def cursor_now(client: Client) -> str:
    """A cursor at the end of the log."""
    async with watching(client, pb.WatchEventsRequest(follow=False)) as watch:
        return (await watch.until(SYNCED))[-1].cursor


async def fill(running: Running, clock: WatchedClock) -> Seen:
    """Leave a row of every kind: jobs in many states, attempts with errors, request ids, a run task, a horizon."""
    cursors = [await cursor_now(running)]
    await create(running, "done", "clean_transcript", source_id="talk ü", metadata=struct(a=[1, {"b": None}]))
    cursors.append(await cursor_now(running))
    await start(running, "done", worker="w")
    clock.advance(SECOND)
    await report(running, "done", progress=30, message="on it", usage=job_pb2.Usage(tokens=5, cost=0.1))
    await fail(running, "done", error=pb.FailureReport(code="X", message="broke", details=struct(c=1)))
    await retry(running, "done", immediately=True)
    cursors.append(await cursor_now(running))
    await start(running, "done")
    await complete(running, "done", attempt=2, result=struct(ok=True), result_count=3)
    for job_id in ("cancelled", "running", "waiting", "queued"):
        lane = "tenant" if job_id in {"running", "queued"} else None
        await create(running, job_id, max_retries=1, request_id=f"request-{job_id}", lane=lane)
    await cancel(running, "cancelled", reason="enough")
    await start(running, "running")
    await start(running, "waiting")
    await fail(running, "waiting")
    (task, *_) = running.server.schedule.tasks
    await running.server.schedule.run_claimed(task, clock.now())
    await running.server.committer.run(lambda transaction: transaction.trim_events(2**62, 0, 3))
    cursors.append(await cursor_now(running))
    expired = cursors.pop(0)
    kept = cursors[1:]
    return Seen(kept, [await events_after(running, cursor) for cursor in kept], expired)


async def filled(url: str, clock: WatchedClock) -> Seen:
    """A store that has a row of every kind."""
    async with serving_at(url, clock) as running:
        return await fill(running, clock)


def requests_of(store: Store) -> dict[Any, Any]:
    """The request ids that ``fill`` uses."""
    keys = [("", f"request-{job_id}") for job_id in ("cancelled", "running", "waiting", "queued")]
    with store.transaction() as transaction:
        return transaction.load(reads(request_keys=keys)).requests
