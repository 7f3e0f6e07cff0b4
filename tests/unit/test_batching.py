"""When what has gathered is handed to the thread: whole batches ahead, one of them and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from jobstate_server.engine.batching import Batcher

from ..support.waiting import until

FULL = 8


class Thread:
    """Stands for the thread: counts what it was handed."""

    def __init__(self) -> None:
        self.handed = 0
        self.batcher = Batcher(self.take, FULL)

    def take(self) -> None:
        self.handed += 1

    async def begin(self) -> None:
        """Have the first batch under way."""
        self.batcher.arrived(1)
        await asyncio.sleep(0)
        assert self.handed == 1


def on_a_loop(check: Callable[[Thread], Awaitable[None]]) -> None:
    async def run() -> None:
        thread = Thread()
        await thread.begin()
        await check(thread)

    asyncio.run(run())


def test_a_busy_thread_is_handed_its_next_batch_once_that_is_full() -> None:
    async def check(thread: Thread) -> None:
        for waiting in range(1, FULL):
            thread.batcher.arrived(waiting)
        assert thread.handed == 1

        thread.batcher.arrived(FULL)
        assert thread.handed == 2

    on_a_loop(check)


def test_a_busy_thread_is_handed_one_batch_ahead_and_no_more() -> None:
    async def check(thread: Thread) -> None:
        thread.batcher.arrived(FULL)
        thread.batcher.arrived(FULL)
        thread.batcher.arrived(2 * FULL)
        assert thread.handed == 2

        thread.batcher.returned(FULL, FULL)
        assert thread.handed == 3

    on_a_loop(check)


def test_a_thread_that_has_its_next_batch_is_handed_nothing_less_than_a_full_one() -> None:
    async def check(thread: Thread) -> None:
        thread.batcher.arrived(FULL)
        thread.batcher.returned(FULL, FULL - 1)
        await asyncio.sleep(0)
        assert thread.handed == 2

        thread.batcher.returned(FULL, FULL - 1)
        await until(lambda: thread.handed == 3)

    on_a_loop(check)
