"""Membership: a replica renews its lease at intervals for as long as it serves, and gives it up when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.errors import StoreUnavailable
from jobstate_server.engine.alarm import LATE_TURNS_MAX
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.downtime import RENEW_INTERVAL
from jobstate_server.engine.due_timer import DueTimer
from jobstate_server.engine.membership import Membership
from jobstate_server.store.base import REPLICA_LEASE


class Noting:
    """A committer with its transactions, and a due timer. All only note what they are asked."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.next: int | None = 7
        """When the next job is due."""
        self.noted: list[int] = []
        self.silence = 0
        self.error: Exception | None = None

    def run(self, work: Callable[[Any], Any]) -> asyncio.Future[Any]:
        """Do it at once."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(work(self))
        return future

    def next_due(self) -> int | None:
        return self.next

    def note(self, due: int) -> None:
        self.noted.append(due)

    def renew(self, replica: str) -> None:
        self.said.append(f"{replica} is here")

    def leave(self, replica: str) -> None:
        self.said.append(f"{replica} leaves")


def a_membership() -> tuple[Membership, Noting, ManualClock]:
    committer, clock = Noting(), ManualClock()
    return Membership("one", cast("Committer", committer), cast("DueTimer", committer), clock), committer, clock


async def pass_time(clock: ManualClock, intervals: int) -> None:
    """Let so many intervals pass, and everything happen in each."""
    for _ in range(intervals):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.advance(RENEW_INTERVAL)


async def test_a_replica_renews_its_lease_at_once_and_then_at_every_interval() -> None:
    membership, committer, clock = a_membership()

    membership.start()
    assert committer.said == ["one is here"]
    await pass_time(clock, 3)

    assert committer.said == ["one is here"] * 4


async def test_a_replica_looks_at_every_interval_at_what_is_due() -> None:
    """A replica that died with it in hand tells nobody."""
    membership, committer, clock = a_membership()

    membership.start()
    await pass_time(clock, 3)

    assert committer.noted == [7] * 3
    committer.next = None
    await pass_time(clock, 3)
    assert committer.noted == [7] * 4


async def test_a_replica_that_stops_gives_up_its_lease_and_renews_it_no_more() -> None:
    membership, committer, clock = a_membership()
    membership.start()
    await pass_time(clock, 1)

    await membership.stop()
    await pass_time(clock, 3)

    assert committer.said == ["one is here", "one is here", "one leaves"]
    assert committer.noted == [7]


async def test_a_replica_that_could_not_renew_its_lease_tries_again_and_stops_all_the_same() -> None:
    membership, committer, clock = a_membership()
    membership.start()
    committer.error = StoreUnavailable("played", 0.5)
    await pass_time(clock, 2)
    committer.error = None
    await pass_time(clock, 1)
    assert committer.said == ["one is here", "one is here"]

    committer.error = StoreUnavailable("played", 0.5)
    await membership.stop()

    assert committer.said == ["one is here", "one is here"]


def test_a_replica_may_miss_some_intervals_before_it_is_taken_for_dead() -> None:
    assert REPLICA_LEASE >= 4 * RENEW_INTERVAL


async def test_a_chain_of_timers_that_a_failure_has_cut_begins_anew_once_it_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    membership, committer, clock = a_membership()
    membership.start()
    with monkeypatch.context() as patched:
        patched.setattr(committer, "run", lambda _work: 1 / 0)
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            clock.advance(RENEW_INTERVAL)
    membership._renewing = None
    clock.advance(1)

    for _ in range(LATE_TURNS_MAX):
        membership.turn()
    assert committer.said == ["one is here"]
    membership.turn()
    await pass_time(clock, 2)
    membership.turn()

    assert committer.said == ["one is here"] * 4
