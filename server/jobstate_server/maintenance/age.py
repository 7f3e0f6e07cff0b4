"""Removal by age, and when it has to wait."""

from __future__ import annotations

from jobstate_server.clock import Clock
from jobstate_server.engine.committer import Committer


async def removal_is_held(committer: Committer, clock: Clock) -> bool:
    """Whether nothing may be removed for its age: time has jumped, and what seems old may have been written just now.

    Asked by scheduled runs. An operator who calls for a removal means it.
    """
    held_until = await committer.run(lambda transaction: transaction.times().removal_held_until())
    return clock.now() < held_until
