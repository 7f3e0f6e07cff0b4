"""When removal by age has to wait."""

from __future__ import annotations

from jobstate_server.clock import Clock
from jobstate_server.engine.committer import Committer


async def removal_is_suspended(committer: Committer, clock: Clock) -> bool:
    """Whether nothing may be removed for its age, because time has jumped: what seems old may be new.

    Scheduled runs ask. An operator's call does not: an operator means it.
    """
    held_until = await committer.run(lambda transaction: transaction.times().removal_suspended_until())
    return clock.now() < held_until
