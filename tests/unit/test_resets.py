"""A connection that resets most of its calls soon after making them is closed."""

from __future__ import annotations

from jobstate_server.rpc.resets import RESETS_MAX, Resets


def after(resets: int, answered: int = 0, *, turn_after: int = 0) -> set[str]:
    """The connections that are closed after so many early resets, each followed by so many answers."""
    ended: set[str] = set()
    counted = Resets(ended.add)
    for number in range(resets):
        if turn_after and number == turn_after:
            counted.turn()
        counted.reset("a")
        for _ in range(answered):
            counted.answered("a")
    counted.answered("b")
    return ended


def test_a_connection_is_closed_that_resets_more_calls_within_a_second_than_it_may() -> None:
    assert not after(RESETS_MAX)
    assert after(RESETS_MAX + 1) == {"a"}


def test_a_connection_stays_open_that_has_more_calls_answered() -> None:
    assert not after(3 * RESETS_MAX, answered=2)


def test_every_second_is_counted_anew() -> None:
    assert not after(2 * RESETS_MAX, turn_after=RESETS_MAX)
