"""The nemesis of replicas: besides what one server bears, several fall at once, and PostgreSQL under all of them."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence

from ..support.waiting import pause
from .clients import Stubs
from .database import VICTIMS, Database
from .nemesis import Deed, Nemesis
from .process import ServerProcess
from .sabotage import IN_ITS_TURN, IN_ITS_TURN_S, RESTARTED, RESTARTED_OF_REPLICAS

PAUSE_S = 11.5
"""Longer than a replica may be silent before the others take over what it was doing (10 s)."""

TURN_LOST_S = 6.5
"""Longer than PostgreSQL lets a transaction be idle (5 s)."""

SNAPSHOT_S = 5.0

STOPPED_MAX_S = 2.0
"""How long PostgreSQL stays away at most, so that a round has room for other things."""


async def freeze_in_its_turn(server: ServerProcess) -> bool:
    """Have a server stop while it alone may hand out jobs of a type. False if it handed out nothing for a while."""
    server.sabotage(IN_ITS_TURN)
    until = asyncio.get_running_loop().time() + IN_ITS_TURN_S
    while not server.is_stopped and asyncio.get_running_loop().time() < until:
        await pause(0.02)
    return server.is_stopped


class ReplicaNemesis(Nemesis):
    """Faults of replicas and of what they share."""

    _restarted = (*RESTARTED, *RESTARTED_OF_REPLICAS)

    def __init__(
        self,
        database: Database,
        servers: Sequence[ServerProcess],
        stubs: Sequence[Stubs],
        rng: random.Random,
        present: asyncio.Event,
    ) -> None:
        super().__init__(servers, stubs, rng, present)
        self._database = database
        self._paused: ServerProcess | None = None
        self._pausing: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None

    def _deeds(self) -> list[Deed]:
        return [
            *super()._deeds(),
            (4, "kill several", self._kill_several),
            (2, "pause beyond the lease", self._pause_beyond_lease),
            (2, "freeze in its turn", self._freeze_in_its_turn),
            (2, "hold a snapshot", self._hold_snapshot),
            (2, "kill PostgreSQL", self._kill_database),
            (2, "stop PostgreSQL", self._stop_database),
            (1, "crash PostgreSQL", self._crash_database),
            *((3, f"cut {victims}", self._cutting(victims)) for victims in VICTIMS),
        ]

    def _first(self, deeds: Sequence[Deed]) -> list[Deed]:
        """Each deed once, in any order, but first the longest: the others then fall into its time."""
        chosen = self._rng.sample(deeds, len(deeds))
        return sorted(chosen, key=lambda deed: deed[1] == "pause beyond the lease")

    async def run(self, until: float, kills_min: int = 0) -> None:
        await super().run(until, kills_min)
        await self._until_awake()
        if self._holding is not None:
            await self._holding

    def _awake(self) -> list[ServerProcess]:
        return [server for server in self._servers if server is not self._paused]

    def _one(self) -> ServerProcess:
        return self._rng.choice(self._awake())

    async def _kill_several(self) -> None:
        awake = self._awake()
        fallen = self._rng.sample(awake, self._rng.randint(min(2, len(awake)), len(awake)))
        for server in fallen:
            server.signal(signal.SIGKILL)
        await asyncio.gather(*(server.ended() for server in fallen))
        await pause(self._rng.uniform(0.0, 0.5))
        await asyncio.gather(*(server.start() for server in fallen))

    async def _pause_beyond_lease(self) -> None:
        """Freeze one replica for so long that the others take it for dead, and go on with the others meanwhile."""
        if self._paused is None and len(self._servers) > 1:
            self._paused = self._one()
            self._paused.signal(signal.SIGSTOP)
            self._pausing = asyncio.create_task(self._wake_later(self._paused))

    async def _wake_later(self, server: ServerProcess) -> None:
        try:
            await pause(PAUSE_S)
        finally:
            server.signal(signal.SIGCONT)
            self._paused = None

    async def _freeze_in_its_turn(self) -> None:
        """Freeze a replica while it alone may hand out jobs of a type, until PostgreSQL has ended its turn."""
        await self._until_awake()
        server = self._one()
        if await freeze_in_its_turn(server):
            self.counts["frozen in its turn"] += 1
            await pause(TURN_LOST_S)
        server.signal(signal.SIGCONT)

    async def _hold_snapshot(self) -> None:
        """Leave a transaction open that sees everything as it was: no dead row can go meanwhile."""
        if self._holding is None or self._holding.done():
            self._holding = asyncio.create_task(self._database.hold_snapshot(SNAPSHOT_S))

    async def _set_clock(self, seconds: float) -> None:
        await self._database.set_clock(seconds)

    async def _restart_under_another_clock(self) -> None:
        await self._until_awake()
        await super()._restart_under_another_clock()

    async def _change_configuration(self) -> None:
        await self._until_awake()
        await super()._change_configuration()

    async def _freeze_beyond_limits(self) -> None:
        await self._until_awake()
        await super()._freeze_beyond_limits()

    async def _until_awake(self) -> None:
        """Wait until no replica is frozen by another deed."""
        if self._pausing is not None:
            await self._pausing

    async def _kill_database(self) -> None:
        await self._database.kill()
        await pause(self._rng.uniform(0.0, 0.5))
        await self._database.start()

    async def _stop_database(self) -> None:
        await self._database.stop()
        await pause(self._rng.uniform(0.0, STOPPED_MAX_S))
        await self._database.start()

    async def _crash_database(self) -> None:
        await self._database.crash(self._one().name, self._rng)

    def _cutting(self, victims: str) -> Callable[[], Awaitable[None]]:
        async def cut() -> None:
            self.counts["connections cut"] += await self._database.cut(self._one().name, victims)

        return cut
