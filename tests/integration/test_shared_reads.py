"""GetStats over every type: linear in what there is, and one read for all who ask together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.clock import ManualClock
from jobstate_server.domain.errors import StoreUnavailable
from jobstate_server.domain.statistics import Measure, TallyKey
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.shared_read import SharedRead
from jobstate_server.rpc.job_service import _read_statistics
from jobstate_server.store.base import Reader
from jobstate_server.store.sqlite.store import SqliteStore

from ..support.clock import PATIENCE_S


@pytest.fixture
async def readers(path: Path) -> AsyncIterator[Readers]:
    store = SqliteStore(path, ManualClock())
    readers = Readers(store)
    readers.start()
    yield readers
    await readers.stop()
    store.close()


class Counted:
    """A read that waits to be let go, and counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0
        self.began = threading.Event()
        self.go_on = threading.Event()

    def read(self, _reader: Reader) -> int:
        self.times += 1
        self.began.set()
        assert self.go_on.wait(PATIENCE_S)
        return self.times


async def test_who_asks_while_a_read_is_under_way_shares_the_next_one(readers: Readers) -> None:
    counted = Counted()
    shared = SharedRead(readers, counted.read)
    first = asyncio.create_task(shared.get())
    await asyncio.to_thread(counted.began.wait, PATIENCE_S)
    others = [asyncio.create_task(shared.get()) for _ in range(50)]
    await asyncio.sleep(0)
    others[0].cancel()
    counted.go_on.set()

    assert await first == 1
    assert await asyncio.gather(*others[1:]) == [2] * 49
    assert await shared.get() == 3


async def test_an_error_is_told_to_all_who_share_it_and_the_next_read_is_made_anew(readers: Readers) -> None:
    answers: Iterator[Any] = iter([StoreUnavailable("the disk is gone", 1.0), 1])

    def read(_reader: Reader) -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    shared = SharedRead(readers, read)
    told = await asyncio.gather(*(shared.get() for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in told] == [StoreUnavailable] * 3
    assert await shared.get() == 1


async def test_a_read_that_fails_before_it_begins_does_not_answer_those_who_ask_later(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_self: SharedRead[int]) -> int:
        raise RuntimeError("a defect")

    shared = SharedRead(readers, lambda _reader: 1)
    with monkeypatch.context() as patch:
        patch.setattr(SharedRead, "_run", broken)
        with pytest.raises(RuntimeError):
            await shared.get()

    assert await shared.get() == 1


class CountedTallies(dict[TallyKey, int]):
    """Tallies that count how often they are gone through."""

    walks = 0

    def items(self) -> Any:
        self.walks += 1
        return super().items()


def test_the_sums_of_a_thousand_types_are_made_in_one_walk_over_the_tallies() -> None:
    tallies = CountedTallies({(f"type-{n:04}", Measure.STORED, 3): n + 1 for n in range(1_000)})

    class Stub:
        def tallies(self, _job_types: object) -> CountedTallies:
            return tallies

    answer = pb.GetStatsResponse.FromString(_read_statistics(cast("Reader", Stub()), ()))

    assert tallies.walks == 1
    assert [of_type.stored[0].count for of_type in answer.job_types[:3]] == [1, 2, 3]
    assert len(answer.job_types) == 1_000
    assert sum(count.count for count in answer.total.stored) == 500_500
