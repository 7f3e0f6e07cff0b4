"""What is to be finished although the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish_despite_cancel(
    work: Coroutine[Any, Any, T], grace_s: float
) -> tuple[asyncio.Task[T], asyncio.CancelledError | None]:
    """Do this work; cancelled, give it a few seconds more. Returns its task, which is done, and the interruption.

    Whoever called has to raise the interruption once everything is put in order. Further ones change nothing: some
    libraries cancel again and again until they are obeyed.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name="jobstate-shielded")
    interruption: asyncio.CancelledError | None = None
    deadline: float | None = None
    while not task.done():
        try:
            await asyncio.wait({task}, timeout=None if deadline is None else max(0.0, deadline - loop.time()))
        except asyncio.CancelledError as error:
            if interruption is None:
                interruption, deadline = error, loop.time() + grace_s
        if deadline is not None and loop.time() >= deadline:
            task.cancel()
            deadline = loop.time() + grace_s
    return task, interruption
