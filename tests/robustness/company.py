"""Everybody at work in a round of torture: clients, workers, producers, watchers, and who disturbs them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from .bulk_operators import BulkOperator, Recreator
from .clients import Client, Shared, Stubs
from .erasers import Eraser
from .history import History, Watcher
from .lossy_proxy import LossyProxy, lossy_proxy
from .operators import Operator
from .planners import GrowingWorker, Planner
from .poison import PoisonedClient
from .repeats import Repeater
from .watchers import KINDS, Counts, Watching
from .workers import DistantWorker, Producer, Releaser, Worker

CLIENTS = 8
WORKERS = 6
GROWING_WORKERS = 4
PRODUCERS = 3
PLANNERS = 4


@dataclass
class Company:
    """Everybody, at work in the tasks of one group."""

    shared: Shared
    seed: str
    group: asyncio.TaskGroup
    counts: Counts = field(default_factory=Counts)
    clients: list[Client] = field(default_factory=list)
    watching: list[asyncio.Task[None]] = field(default_factory=list)
    proxy: LossyProxy | None = None
    poisoned: PoisonedClient | None = None
    repeater: Repeater | None = None

    async def begin(self, history: History) -> None:
        """Let all of them begin, watched by watchers that write into a history."""
        for index in range(CLIENTS):
            await self._add(Client, f"client-{index}", str(index))
        for index, kind in enumerate((*[Worker] * WORKERS, *[GrowingWorker] * GROWING_WORKERS, Releaser)):
            await self._add(kind, f"worker-{index}")
        for index in range(PRODUCERS):
            await self._add(Producer, f"producer-{index}")
        for index in range(PLANNERS):
            await self._add(Planner, f"planner-{index}")
        await self._add(Operator, "operator")
        await self._add(Recreator, "recreator")
        await self._add(BulkOperator, "bulk-operator")
        await self._add(Eraser, "eraser")
        self.proxy = await self.shared.stack.enter_async_context(
            lossy_proxy(self.shared.addresses, self._random("proxy"))
        )
        distant = Stubs(self.proxy.address)
        await self.shared.stack.enter_async_context(distant.channel)
        self._begin(DistantWorker("distant", self.shared, [distant], self._random("distant")))
        self.poisoned = PoisonedClient("poisoned", self.shared, await self.shared.stubs(), self._random("poisoned"))
        self.repeater = Repeater(self.shared, await self.shared.stubs(), self._random("repeater"))
        self.group.create_task(self.poisoned.run())
        self.group.create_task(self.repeater.run())
        for name, (habits, filters) in KINDS.items():
            history.watchers.append(Watcher(name, **filters))
            args = (habits, self.shared, await self.shared.stubs(), self._random(name), self.counts)
            self.watching.append(self.group.create_task(Watching(history.watchers[-1], *args).run()))

    def _random(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")

    async def _add(self, kind: type[Client], name: str, chance: str = "") -> None:
        self._begin(kind(name, self.shared, await self.shared.stubs(), self._random(chance or name)))

    def _begin(self, client: Client) -> None:
        self.clients.append(client)
        self.group.create_task(client.run())

    def call_home(self) -> None:
        """Let all of them finish what they are at."""
        self.shared.stopping.set()
        for task in self.watching:
            task.cancel()

    def met(self) -> Counter[str]:
        """What they have met."""
        counts = self.counts
        met = Counter(
            {
                "watches opened": counts.opened,
                "resumes": counts.resumed,
                "resumes elsewhere": counts.moved,
                "moves of clients": sum(client.moves for client in self.clients),
                "compactions met": counts.expired,
                "drainings met": counts.drained,
                "watchers": len(KINDS),
            }
        )
        for client in self.clients:
            if isinstance(client, (Worker, BulkOperator, Eraser)):
                met.update(client.counts)
            elif isinstance(client, Recreator):
                met["jobs recreated by themselves"] += client.recreated
            elif isinstance(client, Planner):
                met["graphs and groups"] += client.planned
            elif isinstance(client, Operator):
                met["pauses"] += client.paused
        if self.proxy is not None and self.poisoned is not None and self.repeater is not None:
            met.update(self.proxy.counts)
            met["poisoned updates answered"] = self.poisoned.poisoned
            met["calls repeated long after"] = self.repeater.repeated
        return met
