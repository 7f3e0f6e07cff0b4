"""Watches of both clients yield everything once and in order while the server is killed and restarted."""

from __future__ import annotations

import asyncio
import signal
import threading
from pathlib import Path

import pytest

from jobstate_client import AsyncClient, Client, NewJob
from jobstate_client.core import watch_session

from ..support.ports import ReservedPort
from .processes import server_process
from .support import PATIENCE_S, in_thread, log_of, until

RESTARTS = 20
DRAINED_EVERY = 5
"""One restart in so many is an orderly one, after which watchers stay away for up to two seconds."""

LAST = "the-last"


class Seen:
    """What a watch has told so far."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.sequences: list[int] = []
        self.ids: set[str] = set()
        self.cursor = ""

    def take(self, sequence: int, job_id: str) -> bool:
        """Note an event. Returns whether it is the last."""
        self.sequences.append(sequence)
        self.ids.add(job_id)
        return job_id == LAST


def follow(address: str, seen: Seen) -> None:
    with Client(address) as client, client.watch() as watch:
        seen.opened.set()
        for event in watch:
            if seen.take(event.sequence, event.job.id):
                break
        seen.cursor = watch.cursor


async def follow_async(address: str, seen: Seen) -> None:
    async with AsyncClient(address) as client, client.watch() as watch:
        seen.opened.set()
        async for event in watch:
            if seen.take(event.sequence, event.job.id):
                break
        seen.cursor = watch.cursor


def live(store: Path, address: str, watchers: list[Seen], turn: int) -> None:
    """One life of the server, which ends when both watches have told what happened in it, but for the very last."""
    with server_process(store, address) as (process, _), Client(address, wait_for_ready=True) as client:
        for seen in watchers:
            assert seen.opened.wait(PATIENCE_S)
        client.create_many(NewJob("default", id=f"job-{turn}-{number}") for number in range(10))
        until(lambda: all(f"job-{turn}-9" in seen.ids for seen in watchers))
        client.start(f"job-{turn}-0")
        process.end(signal.SIGTERM if turn % DRAINED_EVERY == 0 else signal.SIGKILL)


@pytest.mark.timeout(300)  # Each restart is a new process.
async def test_both_watches_yield_everything_once_over_20_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_session, "RESUME_DELAY_S_MAX", 0.2)
    store, port = tmp_path / "jobs.db", ReservedPort()
    address = port.address
    watchers = [Seen(), Seen()]
    with in_thread(lambda: follow(address, watchers[0])):
        following = asyncio.create_task(follow_async(address, watchers[1]))
        for turn in range(RESTARTS):
            await asyncio.to_thread(live, store, address, watchers, turn)
        with server_process(store, address), Client(address, wait_for_ready=True) as client:
            await asyncio.to_thread(client.create, "default", id=LAST)
            async with asyncio.timeout(PATIENCE_S):
                await following
            await asyncio.to_thread(until, lambda: all(seen.cursor for seen in watchers))
            log = await asyncio.to_thread(log_of, client)
            later = [list(client.watch(cursor=seen.cursor, follow=False)) for seen in watchers]

    assert len(log) == RESTARTS * 11 + 1
    assert [seen.sequences for seen in watchers] == [log, log]
    assert later == [[], []]
