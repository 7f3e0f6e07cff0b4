"""The queue of changes: fair between connections, and in order within each."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain import commands as c
from jobstate_server.engine.fair_queue import CONNECTIONS_KEPT, FairQueue
from jobstate_server.engine.write_queue import LARGE_BYTES, QueuedCommands, WriteQueue


def all_of(queue: FairQueue[str]) -> list[str]:
    """Everything in a queue, in its order."""
    taken = []
    while queue:
        assert queue.first in queue
        taken.append(queue.first)
        assert queue.take() == taken[-1]
    return taken


def test_who_puts_little_does_not_wait_behind_all_that_another_has_put() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(5):
        queue.put(f"busy {number}", "busy", 100)
    assert queue.take() == "busy 0"
    queue.put("calm 0", "calm", 10)
    queue.put("calm 1", "calm", 10)

    assert all_of(queue) == ["calm 0", "calm 1", "busy 1", "busy 2", "busy 3", "busy 4"]


def test_connections_that_put_equally_much_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for connection in "abc":
        for number in range(3):
            queue.put(f"{connection}{number}", connection, 7)

    assert all_of(queue) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_dear_work_is_not_kept_waiting_for_ever_by_cheap_work_that_goes_on_coming() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("dear", "a", 50)
    queue.put("cheap", "b", 1)
    taken = 0
    while queue.take() != "dear":
        taken += 1
        queue.put("cheap", "b", 1)

    assert taken == 49


def test_dear_work_is_not_kept_waiting_for_ever_by_ever_new_connections() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("dear", "a", 50)
    taken = 0
    while True:
        queue.put("cheap", f"new {taken}", 20)
        if queue.take() == "dear":
            break
        taken += 1

    assert taken < 50


def test_positions_of_connections_that_have_no_effect_any_more_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(10 * CONNECTIONS_KEPT):
        queue.put("", str(number), 1)
        queue.put("", str(number), 1)
        queue.take()
    assert len(queue._finished) < 10 * CONNECTIONS_KEPT
    all_of(queue)
    assert not queue._finished


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans())))
def test_what_one_connection_puts_stays_in_order_and_nothing_is_lost(steps: list[tuple[str, int, bool]]) -> None:
    queue: FairQueue[str] = FairQueue()
    put: list[str] = []
    taken = []
    for number, (connection, cost, takes) in enumerate(steps):
        put.append(f"{connection}{number}")
        queue.put(put[-1], connection, cost)
        if takes:
            taken.append(queue.take())
    taken += all_of(queue)

    for connection in "abc":
        assert [item for item in taken if item[0] == connection] == [item for item in put if item[0] == connection]


def call(size: int, rows: int = 1) -> QueuedCommands:
    """A call whose commands have so many rows."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    return QueuedCommands([c.UpdateProgress("job")] * rows, future, rows, size, 0, True)


async def test_a_small_change_is_in_the_next_batch_whatever_another_connection_has_queued() -> None:
    queue = WriteQueue()
    large = [call(8 * LARGE_BYTES, 950) for _ in range(4)]
    for item in large:
        queue.put(item, "busy")
    assert queue.take().commands == large[:1]
    small = call(100)
    queue.put(small, "calm")

    assert queue.take().commands[0] is small
    assert [queue.take().commands for _ in range(3)] == [[item] for item in large[1:]]
    assert (queue.waiting, bool(queue.queued_commands)) == (0, False)


async def test_a_large_change_is_not_handed_over_before_the_thread_needs_it() -> None:
    queue = WriteQueue()
    queue.put(call(LARGE_BYTES + 1, 1_000), "busy")
    assert queue.waiting == 1
    queue.put(call(LARGE_BYTES, 1_000), "busy")
    assert (queue.waiting, queue.rows) == (1_001, 2_000)
