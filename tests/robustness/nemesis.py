"""The nemesis: does to the server whatever may happen to one."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import grpc
from google.protobuf.duration_pb2 import Duration

from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.process import GAVE_UP
from jobstate_server.store.check import check

from ..support.waiting import pause
from .clients import CALL_TIMEOUT_S, Shared, Stubs
from .history import Configured, MemorySample
from .process import ServerProcess, memory_kib
from .recording import newest_sequence
from .relation_recount import recount
from .sabotage import BEFORE_THE_ANSWER, ENDS_THE_PROCESS, RESTARTED
from .server_process import CONFIGURATIONS, policies

STEPS_S = (1, 20, 70, 3_600, -1, -30, -3_600, -7_200)
"""By how much the clock is set."""

AWAY_S = (2 * 3_600, 4 * 3_600, 6 * 3_600)
"""For how long no worker is there, by the clock that is set."""

FORWARD_S_MAX = 20 * 3_600
"""By how much the clock of a run goes forward at most: request ids are kept for 24 h, and repeats go by them."""

FROZEN_S = (2.5, 4.0)
"""How long all servers are frozen: long enough to be a pause, and beyond the timeouts of a run."""

TIMELY = (
    "move the clock",
    "restart under another clock",
    "freeze beyond limits",
    "take the workers away",
    "end a part",
    "break a part",
    "kill before the answer",
    "change the configuration",
)
"""What every round is to see: what happens to time, and to parts."""

MET = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # Some calls to a server that is killed end so.
    grpc.StatusCode.CANCELLED,
    # The task is running by its schedule.
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""What a call may end with on a server that is being harmed."""

Deed = tuple[int, str, Callable[[], Awaitable[None]]]
"""How likely it is beside the others, its name, and how it is done."""


BROKEN_MAX = 2
"""Parts of one process that are broken: after the third restart within a minute it would give up."""


class Nemesis:
    """Faults, one after another, at random."""

    _restarted: Sequence[str] = RESTARTED

    def __init__(
        self,
        servers: Sequence[ServerProcess],
        stubs: Sequence[Stubs],
        rng: random.Random,
        present: asyncio.Event,
    ) -> None:
        """
        Args:
            stubs: of each server, in the same order.
            present: cleared while the clients are to be away.
        """
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.memory: list[MemorySample] = []
        self.configured: list[Configured] = []
        """What the servers have gone by since they were started with another configuration."""
        self.recounted: list[str] = []
        """What a recount of the store found wrong with its counts after each deed."""
        self._servers = servers
        self._stubs = stubs
        self._rng = rng
        self._present = present
        self._forward_s = 0

    def _deeds(self) -> list[Deed]:
        return [
            (10, "kill", self._kill),
            (3, "stop", self._stop),
            (4, "freeze", self._freeze),
            (10, "clean up", self._clean_up),
            (3, "move the clock", self._move_clock),
            (1, "restart under another clock", self._restart_under_another_clock),
            (1, "freeze beyond limits", self._freeze_beyond_limits),
            (1, "take the workers away", self._take_workers_away),
            (1, "end a part", self._end_part),
            (2, "break a part", self._break_part),
            (3, "kill before the answer", self._kill_before_the_answer),
            (1, "change the configuration", self._change_configuration),
            (2, "look for the stale", self._check_stale),
            (2, "retry the failed", self._retry_failed),
        ]

    def _first(self, deeds: Sequence[Deed]) -> list[Deed]:
        """What is done before chance decides."""
        return [deed for deed in deeds if deed[1] in TIMELY]

    async def run(self, until: float, kills_min: int = 0) -> None:
        """Do harm until a moment of the run's clock, and until there were some kills; leave servers that run."""
        deeds = self._deeds()
        weights = [weight for weight, _, _ in deeds]
        first = self._first(deeds)
        while first or Shared.now() < until or self.counts["kill"] < kills_min:
            await pause(self._rng.uniform(0.05, 0.3 if first else 0.7))
            self._sample()
            _, name, deed = first.pop() if first else self._rng.choices(deeds, weights)[0]
            self.faults.append(name)
            self.counts[name] += 1
            await deed()
            await self._recount(name)

    async def _recount(self, name: str) -> None:
        problems = (await asyncio.to_thread(check, self._servers[0].url)).problems
        problems += await asyncio.to_thread(recount, self._servers[0].store)
        self.recounted += [f"after {name}: {problem}" for problem in problems]

    def _one(self) -> ServerProcess:
        """A server to do something to."""
        return self._rng.choice(self._servers)

    def _stubs_of_one(self) -> Stubs:
        server = self._one()
        return next(stubs for each, stubs in zip(self._servers, self._stubs, strict=True) if each is server)

    def _sample(self) -> None:
        self.memory += [MemorySample(server.pid, memory_kib(server.pid)) for server in self._servers]

    async def _kill(self) -> None:
        server = self._one()
        server.signal(signal.SIGKILL)
        await server.ended()
        await server.start()

    async def _stop(self) -> None:
        server = self._one()
        server.signal(signal.SIGTERM)
        if self._rng.random() < 0.3:
            # Whoever stops a server may lose patience with it.
            await pause(self._rng.uniform(0.0, 0.3))
            server.signal(signal.SIGKILL)
            await server.ended()
        else:
            code = await server.ended()
            assert code == 0, f"a stopped server ended with {code}"
        await server.start()

    async def _freeze(self) -> None:
        server = self._one()
        server.signal(signal.SIGSTOP)
        await pause(self._rng.choice([0.05, 0.3, 1.0]))
        server.signal(signal.SIGCONT)

    async def _clean_up(self) -> None:
        """Delete what is final, and compact the log under its readers."""
        request = mpb.CleanupRequest()
        if self._rng.random() < 0.5:
            request.older_than.CopyFrom(Duration(seconds=self._rng.choice([0, 1, 5])))
            request.force = True
        await self._try(self._stubs_of_one().maintenance.Cleanup(request, timeout=CALL_TIMEOUT_S))

    async def _end_part(self) -> None:
        """End a part that everything needs: the server ends by itself, and is started again."""
        server = self._one()
        part = self._rng.choice(ENDS_THE_PROCESS)
        self.counts[f"sabotaged: {part}"] += 1
        server.sabotage(part)
        code = await server.ended()
        assert code == GAVE_UP, f"a server without its {part} ended with {code}"
        await server.start()

    async def _kill_before_the_answer(self) -> None:
        """Kill a server between the commit of a hand-out and its answer."""
        server = self._one()
        server.sabotage(BEFORE_THE_ANSWER)
        await server.ended()
        await server.start()

    async def _break_part(self) -> None:
        """End a part that the server begins anew."""
        server = self._one()
        if server.sabotaged[server.pid] < BROKEN_MAX:
            part = self._rng.choice(self._restarted)
            self.counts[f"sabotaged: {part}"] += 1
            server.sabotage(part)

    def _step(self, steps: Sequence[int]) -> int:
        """By how much to set the clock: one of these, or not at all when it has gone too far already."""
        step = self._rng.choice([step for step in steps if self._forward_s + step <= FORWARD_S_MAX] or [0])
        self._forward_s += max(0, step)
        return step

    async def _take_workers_away(self) -> None:
        """Nobody works for hours, while retries fall due and the server looks for what is overdue."""
        self._present.clear()
        try:
            await pause(self._rng.uniform(0.3, 0.7))
            await self._set_clock(self._step(AWAY_S))
            await self._check_stale()
            # By now everything has fallen due that could.
            await pause(self._rng.uniform(0.8, 1.5))
            await self._check_stale()
        finally:
            self._present.set()

    async def _set_clock(self, seconds: float) -> None:
        self._servers[0].set_clock(seconds)

    async def _move_clock(self) -> None:
        await self._set_clock(self._step(STEPS_S))

    async def _restart_under_another_clock(self) -> None:
        """Nobody is there when the clock is set."""
        for server in self._servers:
            server.signal(self._rng.choice([signal.SIGKILL, signal.SIGTERM]))
        await asyncio.gather(*(server.ended() for server in self._servers))
        await self._set_clock(self._step(STEPS_S))
        await asyncio.gather(*(server.start() for server in self._servers))

    async def _freeze_beyond_limits(self) -> None:
        """The whole service stands still for longer than any attempt may take."""
        for server in self._servers:
            server.signal(signal.SIGSTOP)
        await pause(self._rng.uniform(*FROZEN_S))
        for server in self._servers:
            server.signal(signal.SIGCONT)

    async def _change_configuration(self) -> None:
        """Restart the servers one after the other with other limits, lanes and priorities."""
        before, store = self._servers[0].configuration, self._servers[0].store
        after = (before + 1) % len(CONFIGURATIONS)
        head = await asyncio.to_thread(newest_sequence, store)
        self.configured.append(Configured(head, [policies(before), policies(after)]))
        for server in self._rng.sample(self._servers, len(self._servers)):
            server.signal(self._rng.choice([signal.SIGKILL, signal.SIGTERM]))
            await server.ended()
            server.configuration = after
            await server.start()
        head = await asyncio.to_thread(newest_sequence, store)
        self.configured.append(Configured(head, [policies(after)]))

    async def _check_stale(self) -> None:
        stubs = self._stubs_of_one()
        await self._try(stubs.maintenance.CheckStale(mpb.CheckStaleRequest(), timeout=CALL_TIMEOUT_S))

    async def _retry_failed(self) -> None:
        stubs = self._stubs_of_one()
        await self._try(stubs.maintenance.RetryFailed(mpb.RetryFailedRequest(), timeout=CALL_TIMEOUT_S))

    @staticmethod
    async def _try(call: Awaitable[object]) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            if error.code() not in MET:
                raise
