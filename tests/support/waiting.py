"""Waiting for what tells nobody when it has come about, and letting time pass in which nothing must."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .clock import PATIENCE_S


async def until(is_so: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Look again and again, giving others their turn, and doing ``meanwhile`` between two looks."""
    looked = asyncio.Event()
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            meanwhile()
            looked.clear()
            asyncio.get_running_loop().call_later(0.001, looked.set)
            await looked.wait()


async def pause(seconds: float) -> None:
    """Let time pass, for faults that come at random moments and readers that are slow. No result is waited for so."""
    passed = asyncio.Event()
    timer = asyncio.get_running_loop().call_later(seconds, passed.set)
    try:
        await passed.wait()
    finally:
        timer.cancel()
