"""The notifier's thread: it is named when it dies, and what it missed is read once it is replaced."""

from __future__ import annotations

import asyncio

from .test_replication import PATIENCE_S, Scene


async def test_a_thread_that_has_died_is_named_replaced_and_what_it_missed_is_read() -> None:
    scene = Scene()
    scene.replication.start()
    scene.notifier.said.put(ValueError("a mistake of ours"))
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.to_thread(scene.replication.listener._thread.join)
    assert scene.replication.listener.dead == ["notifier"]
    scene.log.append(2)

    scene.replication.listener.restart()
    await scene.settled()

    assert scene.replication.listener.dead == []
    assert scene.feed.published == [1, 2]
    scene.replication.listener._stopping.set()
    scene.notifier.said.put(None)
    await scene.replication.stop()
    assert scene.replication.listener.dead == []
