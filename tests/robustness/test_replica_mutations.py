"""Six ways to break replicas on purpose, which one server alone does not show, and the validator that catches each.

Every scenario is run twice, as the server is and with the defect put in: what goes red then shows that the promise is
held by the code and not by luck, and that its validator looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from jobstate_server.domain.durations import MINUTE
from jobstate_server.domain.reads import StateOf
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.replication import Replication
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.records import Changes, StatesFound, StoredEvent

from ..support.clock import PATIENCE_S
from .history import History, Watcher
from .replica_rig import LOADED, PICKED, WRITTEN, GatedStore, GatedTransaction, Replicas, replicated
from .rig import HEARTBEAT, create, fail, start
from .validators import broken


class NumbersBeforeItsTurn(GatedTransaction):
    """The log is not locked until the commit: numbers are given in an order that commits need not keep."""

    def _append(self, changes: Changes) -> psycopg.Cursor[Any]:
        count = len(changes.events)
        with psycopg.connect(self.url, autocommit=True) as other:
            other.execute(sql.ADVANCE_LOG, {"events": count, "bytes": 0, "requests": 0, "now": self.now})
        unlocked = copy(sql.append_events)
        unlocked._text = unlocked._text.replace(sql.ADVANCE_LOG, sql.HEAD)
        return unlocked.run(self._connection, changes.events, events=count, channel=self._channel, written="")

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        return super()._execute(b"SELECT 1" if text == sql.LOCK_LOG else text, **values)


class LocksNoJobs(GatedTransaction):
    """Jobs are read without a lock: two replicas decide on the same one at once."""

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        return super()._execute(text.replace(b" FOR UPDATE", b"") if text == sql.JOBS else text, **values)


class SharesDueWork(GatedTransaction):
    """What is due is taken though another replica has it in hand."""

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        return super()._execute(text.replace(b" FOR UPDATE SKIP LOCKED", b"") if text == sql.DUE else text, **values)


class TakesNoTurns(GatedTransaction):
    """Ready jobs are handed out while another replica hands out others of their type."""

    def hand_out_states(self, wanted: Sequence[StateOf], **options: Any) -> StatesFound:
        self._ready._execute = self._execute
        return super().hand_out_states(wanted, **options)

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        every = b"SELECT name FROM unnest(%(names)s::text[]) AS name"
        return super()._execute(every if text == sql.TRY_TURNS else text, **values)


class PublishesAtOnce(Replication):
    """Its own events are published as they come, without those that others have written before them."""

    def publish(self, events: Sequence[StoredEvent]) -> None:
        self._feed.publish(events)


class SeesNoGap(EventFeed):
    """And nobody is told that something lies between."""

    def _wake_all(self) -> None:
        """Not here."""


async def commit_in_another_order(replicas: Replicas) -> None:
    """The replica that is first at the log is held before its commit, while the other one writes too."""
    one, other = replicas.one, replicas.other
    follower = other.follow()
    await follower.next()

    one.store.gate.close_at(WRITTEN)
    held = asyncio.create_task(one.call(create("first")))
    await one.store.gate.reached()
    # Of another type, for the tallies of one are locked as well.
    hurrying = asyncio.create_task(other.call(create("second", job_type="another")))
    if await replicas.done_or_held_up(hurrying, other):
        await follower.through(2)
    one.store.gate.open()
    await asyncio.gather(held, hurrying)
    await other.call(create("third"))
    await follower.through(3)


async def start_one_job_at_once(replicas: Replicas) -> None:
    """Both are asked to start a job; the one has read it, and is held, when the other reads it."""
    one, other = replicas.one, replicas.other
    await one.call(create("job"))

    one.store.gate.close_at(LOADED)
    held = asyncio.create_task(one.ask(start("job")))
    await one.store.gate.reached()
    hurrying = asyncio.create_task(other.ask(start("job")))
    await replicas.done_or_held_up(hurrying, other)
    one.store.gate.open()
    await asyncio.gather(held, hurrying)


async def resume_one_job_at_once(replicas: Replicas) -> None:
    """A retry falls due at both; the one has taken it, and is held, when the other looks for due work."""
    one, other = replicas.one, replicas.other
    for command in (create("job"), start("job"), fail("job")):
        await one.call(command)
    replicas.clock.advance(MINUTE)

    one.store.gate.close_at(LOADED)
    held = asyncio.create_task(one.serve_due())
    await one.store.gate.reached()
    await other.serve_due()
    one.store.gate.open()
    await held


async def are_asked_for_the_rest_before_they_were_notified(replicas: Replicas) -> None:
    """A watcher takes its cursor to a replica that was not notified yet of what was written since."""
    watcher = Watcher("watcher")
    follower = replicas.one.follow(watcher)
    await replicas.one.call(create("seen"))
    await follower.through(1)
    await follower.leave()
    await replicas.one.call(create("not seen yet"))

    await replicas.other.follow(watcher, follower.stream, cursor=follower.cursor, follow=False).rest()


async def write_in_turns(replicas: Replicas) -> None:
    """A replica writes right after the other one, of which it was not notified yet."""
    one, other = replicas.one, replicas.other
    follower = other.follow()
    await follower.next()

    reading = asyncio.create_task(follower.through(2))
    await replicas.clock.armed(HEARTBEAT)
    await one.call(create("first"))
    await other.call(create("second"))
    await reading


async def hand_out_at_once(replicas: Replicas) -> None:
    """Both are asked for work; the one has picked a job, and is held before its commit, when the other is asked."""
    one, other = replicas.one, replicas.other
    for job_id in ("first", "second"):
        await one.call(create(job_id))

    one.store.gate.close_at(PICKED)
    held = asyncio.create_task(one.acquire("one"))
    await one.store.gate.reached()
    hurrying = asyncio.create_task(other.acquire("other", max_jobs=2))
    await replicas.done_or_held_up(hurrying, other)
    one.store.gate.open()
    await asyncio.gather(held, hurrying)


@dataclass(frozen=True)
class ReplicaMutation:
    """A defect of replicas, what brings it out, and who catches it."""

    name: str
    scenario: Callable[[Replicas], Awaitable[None]]
    defect: dict[str, Any]
    caught_by: set[str]


def storing(kind: type[GatedTransaction]) -> type[GatedStore]:
    """A store with such transactions."""
    return type(kind.__name__, (GatedStore,), {"kind": kind})


REPLICA_MUTATIONS = [
    ReplicaMutation(
        "number events before its turn at the log",
        commit_in_another_order,
        {"store": storing(NumbersBeforeItsTurn)},
        {"reliable", "bookmarkable"},
    ),
    ReplicaMutation(
        "read jobs without a lock", start_one_job_at_once, {"store": storing(LocksNoJobs)}, {"whole", "exclusive"}
    ),
    ReplicaMutation(
        "hand out jobs without the turn of their type",
        hand_out_at_once,
        {"store": storing(TakesNoTurns)},
        {"in_turn"},
    ),
    ReplicaMutation(
        "take due work that another has in hand", resume_one_job_at_once, {"store": storing(SharesDueWork)}, {"whole"}
    ),
    ReplicaMutation(
        "judge a cursor without a fresh look at the log",
        are_asked_for_the_rest_before_they_were_notified,
        {"refreshes": False},
        {"resumable"},
    ),
    ReplicaMutation(
        "publish its own events before those of others",
        write_in_turns,
        {"replication": PublishesAtOnce, "feed": SeesNoGap},
        {"reliable", "bookmarkable"},
    ),
]


async def joint_history(mutation: ReplicaMutation, *, mutated: bool) -> History:
    """What a scenario leaves in the store, and what both replicas told."""
    async with replicated(**(mutation.defect if mutated else {})) as replicas:
        async with asyncio.timeout(PATIENCE_S):
            await mutation.scenario(replicas)
    return replicas.history()


@pytest.mark.parametrize("mutation", REPLICA_MUTATIONS, ids=[mutation.name for mutation in REPLICA_MUTATIONS])
async def test_replicas_as_they_are_keep_every_promise_when_they(mutation: ReplicaMutation) -> None:
    assert broken(await joint_history(mutation, mutated=False)) == {}


@pytest.mark.parametrize("mutation", REPLICA_MUTATIONS, ids=[mutation.name for mutation in REPLICA_MUTATIONS])
async def test_validators_catch_replicas_made_to(mutation: ReplicaMutation) -> None:
    assert set(broken(await joint_history(mutation, mutated=True))) == mutation.caught_by
