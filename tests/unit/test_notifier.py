"""The notifier's thread: it is named when it dies, and what it missed is read once it is replaced."""

from __future__ import annotations

import asyncio

from .test_follower import PATIENCE_S, Scene


async def test_a_thread_that_has_died_is_named_replaced_and_what_it_missed_is_read() -> None:
    scene = Scene()
    scene.follower.start()
    scene.bell.said.put(ValueError("a mistake of ours"))
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.to_thread(scene.follower._thread.join)
    assert scene.follower.dead == ["notifier"]
    scene.log.append(2)

    scene.follower.restart()
    await scene.settled()

    assert scene.follower.dead == []
    assert scene.hub.published == [1, 2]
    scene.follower._stopping.set()
    scene.bell.said.put(None)
    await scene.follower.stop()
    assert scene.follower.dead == []
