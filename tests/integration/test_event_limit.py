"""The limit of the log's bytes holds while the server runs, and the room that retention frees is given back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jobstate_server.maintenance.event_limit import CHECK_TURNS
from jobstate_server.store.base import TRIM_BYTES_MAX
from jobstate_server.store.sqlite import transaction as sqlite

from ..support.calls import create, get, report, start, struct
from ..support.clock import PATIENCE_S
from ..support.server import Running, serving

MEBIBYTE = 1024 * 1024
LARGE = "x" * 60_000


async def merge(running: Running, times: int) -> None:
    """Merge large metadata again and again; each time the event carries it whole."""
    await create(running)
    await start(running)
    for number in range(times):
        await report(running, metadata=struct(text=LARGE, number=number))


def size_of(path: Path) -> int:
    """Bytes of the file, once the server has closed it."""
    return path.stat().st_size


async def log_bytes(running: Running) -> int:
    """What the log keeps."""
    return (await running.server.readers.run(lambda reader: reader.log_state())).bytes


async def test_a_log_that_outgrew_its_limit_is_cut_back_without_a_cleanup(path: Path) -> None:
    async with serving(path, event_retention_bytes=MEBIBYTE) as running:
        await merge(running, 60)
        assert await log_bytes(running) > 3 * MEBIBYTE
        before = running.server.committer.counters.commits

        removed = await running.server.event_limit.trim()

        assert MEBIBYTE - 2 * len(LARGE) < await log_bytes(running) <= MEBIBYTE
        assert removed > 60 - MEBIBYTE // len(LARGE) - 2
        assert (await get(running)).metadata["number"] == 59
        assert running.server.committer.counters.commits == before, "no change of a job was needed for it"
        assert await running.server.event_limit.trim() == 0


async def test_others_are_served_between_two_slices(path: Path) -> None:
    async with serving(path, event_retention_bytes=MEBIBYTE) as running:
        await merge(running, 3 * TRIM_BYTES_MAX // len(LARGE))
        keeping = asyncio.create_task(running.server.event_limit.trim())
        await create(running, "other")

        assert not keeping.done(), "the change waited for one slice, not for all"
        await keeping


async def test_the_watchdogs_turns_have_the_log_looked_at(path: Path) -> None:
    async with serving(path, event_retention_bytes=MEBIBYTE) as running:
        await merge(running, 30)
        for _ in range(CHECK_TURNS):
            running.server.event_limit.turn()
        run = running.server.event_limit._run
        assert run is not None
        async with asyncio.timeout(PATIENCE_S):
            await run

        assert await log_bytes(running) <= MEBIBYTE


async def test_pages_that_retention_has_freed_are_given_back_where_they_are_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "FREE_PAGES_KEPT", 64)
    async with serving(path, event_retention_bytes=MEBIBYTE) as running:
        await merge(running, 120)
        await running.server.event_limit.trim()
        given = await running.server.event_limit.release_pages()
        again = await running.server.event_limit.release_pages()

    assert given * 4096 > 3 * MEBIBYTE
    assert again == 0
    assert size_of(path) < 4 * MEBIBYTE


async def test_a_few_free_pages_are_kept_to_be_used_again(path: Path) -> None:
    async with serving(path, event_retention_bytes=MEBIBYTE) as running:
        await merge(running, 60)
        await running.server.event_limit.trim()

        assert await running.server.event_limit.release_pages() == 0
