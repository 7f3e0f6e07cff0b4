"""Reads are fair: dear ones hold up no Get, and nobody's read is carried on for nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.errors import Draining, InternalError, Overloaded, StoreUnavailable
from jobstate_server.engine.readers import READ_TURNS_MAX, READER_THREADS, WAIT_TURNS_MAX, Readers
from jobstate_server.store.base import Reader
from jobstate_server.store.sqlite.store import SqliteStore

from ..store.support import a_job, keep_jobs
from ..support.calls import create, get, health_of
from ..support.clock import PATIENCE_S
from ..support.server import Running
from ..support.waiting import until

ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"


@asynccontextmanager
async def readers_of(path: Path) -> AsyncIterator[Readers]:
    """Readers of a store with one job."""
    store = SqliteStore(path, ManualClock())
    keep_jobs(store, a_job("job"))
    readers = Readers(store)
    readers.start()
    try:
        yield readers
    finally:
        await readers.stop()
        store.close()


class Gate:
    """A read that waits until it is let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self._open = threading.Event()

    def read(self, _reader: Reader) -> str:
        self.began.set()
        assert self._open.wait(PATIENCE_S)
        return "done"

    def open(self) -> None:
        self._open.set()


async def under_way(gate: Gate) -> None:
    """Wait until a thread has begun the read."""
    assert await asyncio.to_thread(gate.began.wait, PATIENCE_S)


async def test_gets_are_answered_while_as_many_long_reads_are_wanted_as_there_are_threads(path: Path) -> None:
    gates = [Gate() for _ in range(2 * READER_THREADS)]
    async with readers_of(path) as readers:
        long = [readers.run(gate.read) for gate in gates]
        await under_way(gates[0])

        async with asyncio.timeout(PATIENCE_S):
            assert (await readers.get("job")).job.id == "job"
            assert await readers.run(lambda reader: reader.attempts("job", 1, 100, 2**20), is_short=True) == []

        assert not any(future.done() for future in long)
        for gate in gates:
            gate.open()
        assert await asyncio.gather(*long) == ["done"] * len(gates)


async def test_a_read_whose_caller_has_gone_is_never_begun(path: Path) -> None:
    first, abandoned, last = Gate(), Gate(), Gate()
    async with readers_of(path) as readers:
        held = readers.run(first.read)
        await under_way(first)
        gone = [readers.run(abandoned.read) for _ in range(100)]
        for future in gone:
            future.cancel()
        wanted = readers.run(last.read)
        readers.turn()
        last.open()
        first.open()
        await asyncio.gather(held, wanted)

        assert not abandoned.began.is_set()
        assert readers._waiting == 0


async def turned_until(readers: Readers, is_so: Callable[[], bool]) -> None:
    """Let turns pass."""
    await until(is_so, meanwhile=readers.turn)


def endless(began: threading.Event) -> Callable[[Reader], Any]:
    """A read that SQLite would not end by itself."""

    def read(reader: Any) -> Any:
        began.set()
        return reader._execute(ENDLESS, ())

    return read


async def test_a_read_under_way_is_broken_off_once_its_caller_has_gone(path: Path) -> None:
    async with readers_of(path) as readers:
        began = threading.Event()
        abandoned = readers.run(endless(began))
        await asyncio.to_thread(began.wait, PATIENCE_S)
        abandoned.cancel()
        next_one = readers.run(lambda reader: reader.attempts("job", 1, 100, 2**20))
        await turned_until(readers, next_one.done)

        assert await next_one == []


async def test_a_read_that_takes_too_long_is_broken_off_and_its_caller_is_told(path: Path) -> None:
    async with readers_of(path) as readers:
        began = threading.Event()
        endlessly = readers.run(endless(began))
        await asyncio.to_thread(began.wait, PATIENCE_S)
        for _ in range(READ_TURNS_MAX):
            readers.turn()
        assert not endlessly.done()
        await turned_until(readers, endlessly.done)
        with pytest.raises(Overloaded, match="the read took longer than 10 s; ask for less at once"):
            await endlessly

        assert readers.store_problem is None, "a read that was too dear says nothing against the store"
        assert await readers.run(lambda reader: reader.attempts("job", 1, 100, 2**20)) == []


async def test_who_has_waited_for_half_a_minute_is_told_that_the_store_does_not_answer(path: Path) -> None:
    gates = [Gate(), Gate()]
    async with readers_of(path) as readers:
        stuck = [readers.run(gate.read, is_short=True) for gate in gates]
        for gate in gates:
            await under_way(gate)
        waiting: list[asyncio.Future[Any]] = [readers.run(lambda reader: reader.attempts("job", 1, 100, 2**20))]
        waiting.append(readers.get("job"))
        await asyncio.sleep(0)
        waiting += [readers.get("job") for _ in range(3)]
        for _ in range(WAIT_TURNS_MAX + 1):
            readers.turn()

        for future in [*stuck, *waiting]:
            with pytest.raises(StoreUnavailable, match="the store has not answered for 30 s"):
                await future
        assert readers.silence == WAIT_TURNS_MAX + 1
        for gate in gates:
            gate.open()
        assert (await readers.get("job")).job.id == "job"
        await turned_until(readers, lambda: readers.silence == 0 and readers._waiting == 0)


async def test_stopping_refuses_what_waits_and_breaks_off_what_is_being_read(path: Path) -> None:
    async with readers_of(path) as readers:
        began = threading.Event()
        endlessly = readers.run(endless(began))
        await asyncio.to_thread(began.wait, PATIENCE_S)
        waiting = readers.run(lambda reader: reader.attempts("job", 1, 100, 2**20))

    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Overloaded):
        await endlessly


async def test_a_thread_that_has_died_is_named_and_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with readers_of(path) as readers:
        with monkeypatch.context() as patched:
            patched.setattr(readers, "_results", lambda reader, read: 1 / 0)
            with pytest.raises(InternalError):
                await readers.run(lambda reader: reader.attempts("job", 1, 100, 2**20))
        await turned_until(readers, lambda: bool(readers.dead))
        (name,) = readers.dead

        readers.restart()

        assert name.startswith("reader-")
        assert readers.dead == []
        assert await readers.run(lambda reader: reader.attempts("job", 1, 100, 2**20)) == []
        assert readers._waiting == 0


async def test_reads_that_fail_make_health_tell_until_one_succeeds(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(running)
    server = running.server
    assert await health_of(running) == 1
    server.readers.store_problem = "the store cannot be read: disk I/O error"
    server.supervisor.turn()
    assert server.supervisor.health.problems == ["the store cannot be read: disk I/O error"]
    assert await health_of(running) == 2

    await get(running)
    server.supervisor.turn()

    assert await health_of(running) == 1
