"""What has to be made up for after a pause, and when another replica has kept the limits meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.durations import DAY, HOUR, SECOND
from jobstate_server.engine.downtime import ALIVE_WITHIN, OUTAGE_MIN, REMOVAL_SUSPENDED, Downtime
from jobstate_server.store.base import Transaction

GRACE = 30 * SECOND


@dataclass
class Noting:
    """A transaction, and what the store keeps about time, which only note what they are asked."""

    now: int
    renewed: int | None = None
    stored: int = 0
    moved_to: list[int] = field(default_factory=list)
    grace_extended_to: list[int] = field(default_factory=list)
    held_until: list[int] = field(default_factory=list)

    def last_renewed(self, besides: str = "") -> int | None:
        del besides
        return self.renewed

    def postpone_timeouts(self, until: int) -> int:
        self.moved_to.append(until)
        return 1

    def times(self) -> Noting:
        return self

    def newest(self) -> int:
        return self.stored

    def extend_grace(self, until: int) -> None:
        self.grace_extended_to.append(until)

    def suspend_removal(self, until: int) -> None:
        self.held_until.append(until)


class Process:
    """The pauses of a process on a clock that is moved by hand."""

    def __init__(self, *, is_new: bool = False) -> None:
        self.clock = ManualClock()
        self.downtime = Downtime(self.clock, restart_grace=GRACE, replica="ours")
        if not is_new:
            self.downtime.compensated()

    def begin(self, renewed: int | None = None, stored: int = 0, began: int | None = None) -> tuple[bool, Noting]:
        """Begin a transaction. ``renewed``: how long ago another replica renewed its lease."""
        now = self.clock.now()
        noting = Noting(now, None if renewed is None else now - renewed, stored)
        began = self.clock.monotonic() if began is None else began
        found = self.downtime.compensate(cast("Transaction", noting), began)
        if found:
            self.downtime.compensated()
        return found, noting

    def moved_by(self, renewed: int | None = None, began: int | None = None) -> int | None:
        """By how much limits are moved, None when they are not."""
        _, noting = self.begin(renewed, began=began)
        assert noting.grace_extended_to == noting.moved_to
        return noting.moved_to[0] - noting.now if noting.moved_to else None


def test_without_a_pause_there_is_nothing_to_do() -> None:
    process = Process()
    process.clock.advance(DAY)

    assert process.begin() == (False, Noting(process.clock.now()))


@pytest.mark.parametrize(("pause", "moved"), [(3 * SECOND, 3 * SECOND), (HOUR, GRACE)])
def test_limits_are_moved_once_by_the_length_of_a_pause_and_by_the_grace_at_most(pause: int, moved: int) -> None:
    process = Process()
    process.clock.pause(pause)

    assert process.moved_by() == moved
    assert process.moved_by() is None


def test_what_was_not_committed_is_made_up_for_by_the_next_transaction() -> None:
    process = Process()
    process.clock.pause(8 * SECOND)
    lost = Noting(process.clock.now())
    process.downtime.compensate(cast("Transaction", lost), process.clock.monotonic())

    assert process.moved_by() == 8 * SECOND


def test_a_pause_in_the_middle_of_a_transaction_is_seen_at_its_end() -> None:
    process = Process()
    process.begin()
    assert not process.downtime.has_new()

    process.clock.pause(8 * SECOND)

    assert process.downtime.has_new()
    assert process.moved_by() == 8 * SECOND


@pytest.mark.parametrize(
    ("renewed", "others_served"),
    [
        (0, True),
        (2 * SECOND, True),
        (ALIVE_WITHIN - 1, True),
        # It renewed its lease, but not lately: it has paused as well.
        (ALIVE_WITHIN + 1, False),
        (9 * SECOND, False),
        (None, False),
    ],
)
def test_a_pause_counts_unless_another_replica_renewed_its_lease_at_its_end(
    renewed: int | None, others_served: bool
) -> None:
    process = Process()
    process.clock.pause(8 * SECOND)

    assert (process.moved_by(renewed) is None) is others_served


def test_a_replica_that_renewed_its_lease_as_a_short_pause_began_may_have_paused_too() -> None:
    process = Process()
    process.clock.pause(int(2.5 * SECOND))

    assert process.moved_by(renewed=2 * SECOND) == 2.5 * SECOND


def test_an_outage_counts_from_the_first_transaction_that_failed() -> None:
    process = Process()
    began = process.clock.monotonic()
    process.downtime.store_lost(began)
    process.clock.advance(10 * SECOND)
    process.downtime.store_lost(process.clock.monotonic())
    process.clock.advance(10 * SECOND)

    assert process.moved_by() == 20 * SECOND
    assert process.moved_by() is None


def test_a_connection_that_is_made_anew_in_a_moment_is_no_outage() -> None:
    process = Process()
    process.downtime.store_lost(process.clock.monotonic())
    process.clock.advance(OUTAGE_MIN)

    assert process.moved_by() is None


def test_a_transaction_that_could_not_begin_or_end_for_long_is_a_pause() -> None:
    process = Process()
    began = process.clock.monotonic()
    process.clock.advance(5 * SECOND)
    assert process.moved_by(began=began) == 5 * SECOND

    began = process.clock.monotonic()
    process.clock.advance(4 * SECOND)
    process.downtime.committed(began)
    assert process.moved_by() == 4 * SECOND


@pytest.mark.parametrize(
    ("renewed", "moved"), [(None, GRACE), (HOUR, GRACE), (ALIVE_WITHIN + 1, GRACE), (2 * SECOND, 2 * SECOND), (0, None)]
)
def test_at_a_start_limits_are_moved_by_the_grace_unless_another_replica_serves(
    renewed: int | None, moved: int | None
) -> None:
    assert Process(is_new=True).moved_by(renewed) == moved


def test_removal_is_held_after_a_jump_of_more_than_a_day_at_a_start_or_later() -> None:
    process = Process(is_new=True)
    _, noting = process.begin(stored=process.clock.now() - DAY - 1)
    assert noting.held_until == [noting.now + REMOVAL_SUSPENDED]
    process.clock.step(2 * DAY)
    _, noting = process.begin()
    assert noting.held_until == [noting.now + REMOVAL_SUSPENDED]

    for stored in (0, ManualClock().now() - DAY, ManualClock().now()):
        _, noting = Process(is_new=True).begin(stored=stored)
        assert noting.held_until == []
