"""What the demo does with every process that it starts."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from pathlib import Path

ENDED_WITHIN_S = 5.0


async def end(process: Process) -> None:
    """End a process by SIGTERM, and by SIGKILL if that takes longer than ``ENDED_WITHIN_S``."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(ENDED_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def last_line(log: Path) -> str:
    """The last line that a process wrote into its log: usually the reason why it ended."""
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
