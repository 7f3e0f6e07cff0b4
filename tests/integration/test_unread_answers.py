"""What a StreamUpdates client has under way and does not read is bounded in bytes; then it is not read any further."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.caller import ANONYMOUS
from jobstate_server.domain.errors import JobStateError
from jobstate_server.rpc.byte_budget import LITTLE, ByteBudget
from jobstate_server.rpc.call import StreamCall
from jobstate_server.rpc.update_stream import BATCHES_UNDER_WAY_MAX, UpdateStreams
from jobstate_server.wire.job_ids import JobIds

from ..support.clock import PATIENCE_S
from ..support.server import Running

BATCH = pb.StreamUpdatesRequest(updates=[pb.JobUpdate()] * 100).SerializeToString()
"""A small batch with a large answer: every update is refused."""


class Sender:
    """A client that sends batches for as long as they are read."""

    def __init__(self, batches: int = 10_000) -> None:
        self.taken = 0
        self._batches = batches

    async def requests(self) -> AsyncIterator[bytes]:
        while self.taken < self._batches:
            self.taken += 1
            yield BATCH
            await asyncio.sleep(0)


def call_of(connection: str, end: Callable[[JobStateError], None] = lambda error: None) -> StreamCall:
    return StreamCall(ANONYMOUS, 0, connection, end)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)


async def test_a_client_that_reads_no_answers_is_not_read_any_further(running: Running) -> None:
    budget = ByteBudget(limit=400_000, of_connection=120_000)
    streams = UpdateStreams(running.server.committer, JobIds(running.server.clock.now), running.server.acquires, budget)
    sender = Sender()

    async with aclosing(streams.answers(sender.requests(), call_of("a"))) as answers:  # type: ignore[type-var]
        await anext(answers)
        await until(lambda: budget.waiting == 1)

        assert sender.taken < BATCHES_UNDER_WAY_MAX + 3
        assert budget.held <= 120_000
    assert (budget.held, budget.waiting) == (0, 0)


async def test_it_goes_on_as_soon_as_its_answers_are_read(running: Running) -> None:
    budget = ByteBudget(limit=60_000, of_connection=60_000)
    streams = UpdateStreams(running.server.committer, JobIds(running.server.clock.now), running.server.acquires, budget)

    answered = [answer async for answer in streams.answers(Sender(50).requests(), call_of("a"))]

    assert len(answered) == 50
    assert budget.held == 0


async def test_who_does_not_read_takes_nothing_from_other_connections(running: Running) -> None:
    budget = ByteBudget(limit=400_000, of_connection=120_000)
    streams = UpdateStreams(running.server.committer, JobIds(running.server.clock.now), running.server.acquires, budget)

    async with aclosing(streams.answers(Sender().requests(), call_of("a"))) as unread:  # type: ignore[type-var]
        await anext(unread)
        await until(lambda: budget.waiting == 1)

        assert len([answer async for answer in streams.answers(Sender(50).requests(), call_of("b"))]) == 50


async def test_who_does_not_read_while_others_wait_for_the_memory_is_ended(running: Running) -> None:
    budget = ByteBudget(limit=120_000, of_connection=120_000, unread_s=0.05)
    streams = UpdateStreams(running.server.committer, JobIds(running.server.clock.now), running.server.acquires, budget)
    ended: list[str] = []
    unread = streams.answers(Sender().requests(), call_of("a", lambda error: ended.append(error.reason)))
    await anext(unread)
    await until(lambda: budget.waiting == 1)

    async def other() -> int:
        return len([answer async for answer in streams.answers(Sender(50).requests(), call_of("b"))])

    waiting = asyncio.create_task(other())
    await until(lambda: bool(ended))
    # What gRPC's task does when it is cancelled.
    await unread.aclose()  # type: ignore[attr-defined]

    assert ended == ["OVERLOADED"]
    async with asyncio.timeout(PATIENCE_S):
        assert await waiting == 50


async def test_a_batch_larger_than_all_of_the_memory_passes_alone() -> None:
    budget = ByteBudget(limit=10, of_connection=10)
    share = budget.share("a", lambda: None)

    async with asyncio.timeout(PATIENCE_S):
        await share.take(1_000)
        share.resize(1_000, 0)
        await share.take(1_000)

    assert budget.held == 1_000


async def test_the_reserve_is_for_connections_that_hold_nothing_and_need_little() -> None:
    budget = ByteBudget(limit=400, of_connection=300, reserve=4 * LITTLE)
    a, b, c = (budget.share(name, lambda: None) for name in "abc")
    await a.take(290)

    waiting = [asyncio.ensure_future(taking) for taking in (a.take(3), b.take(50))]
    await asyncio.sleep(0)
    assert budget.waiting == 2
    await c.take(3)
    waiting.append(asyncio.ensure_future(c.take(20)))
    await asyncio.sleep(0)
    assert (budget.held, budget.waiting) == (293, 3)

    a.resize(290, 0)
    await asyncio.gather(*waiting)
    assert budget.held == 76
    for share in (a, b, c):
        share.close()
    assert (budget.held, budget.waiting) == (0, 0)


async def test_room_goes_to_the_connection_on_which_the_fewest_wait() -> None:
    budget = ByteBudget(limit=100, of_connection=100)
    first = budget.share("a", lambda: None)
    await first.take(100)
    order: list[str] = []

    async def take(connection: str) -> None:
        await budget.share(connection, lambda: None).take(100)
        order.append(connection)

    tasks = [asyncio.ensure_future(take(connection)) for connection in "bbbc"]
    await asyncio.sleep(0)
    first.close()
    await until(lambda: bool(order))

    assert order == ["c"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert budget.waiting == 0
