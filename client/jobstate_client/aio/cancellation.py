"""Work that has to finish although the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish_despite_cancel(
    work: Coroutine[Any, Any, T], grace_s: float
) -> tuple[asyncio.Task[T], asyncio.CancelledError | None]:
    """Run ``work`` to its end. When the caller is cancelled, the work gets ``grace_s`` seconds more.

    Returns the task, which is done, and the first cancellation, which the caller has to raise after its own cleanup.
    Further cancellations change nothing: some libraries cancel again and again until the task ends.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name="jobstate-uncancelled")
    cancellation: asyncio.CancelledError | None = None
    deadline: float | None = None
    while not task.done():
        try:
            await asyncio.wait({task}, timeout=None if deadline is None else max(0.0, deadline - loop.time()))
        except asyncio.CancelledError as error:
            if cancellation is None:
                cancellation, deadline = error, loop.time() + grace_s
        if deadline is not None and loop.time() >= deadline:
            task.cancel()
            deadline = loop.time() + grace_s
    return task, cancellation


def is_cancelling() -> bool:
    """Whether the current task has been cancelled, and not only a gRPC call within it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
