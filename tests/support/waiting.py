"""Waits for conditions that send no signal, and pauses that no result depends on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .clock import PATIENCE_S


async def until(is_so: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Check the condition every millisecond until it holds, and call ``meanwhile`` between two checks."""
    looked = asyncio.Event()
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            meanwhile()
            looked.clear()
            asyncio.get_running_loop().call_later(0.001, looked.set)
            await looked.wait()


async def pause(seconds: float) -> None:
    """Let time pass: for faults at random moments and for slow readers. Never use it to wait for a result."""
    passed = asyncio.Event()
    timer = asyncio.get_running_loop().call_later(seconds, passed.set)
    try:
        await passed.wait()
    finally:
        timer.cancel()
