"""The supervisor of one server: its watchdog, its health, and what probes are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.supervision.health import Health
from jobstate_server.supervision.watchdog import TURN_S, Ageing, Restartable, Watchdog

SILENT_TURNS_MAX = 5
"""Seconds for which the store may leave a change or a read unanswered before health says that nobody is served."""

PROBE_TURNS = 5
"""Seconds between two looks at the store while nobody calls: within so many a lost one is noticed."""


class Supervisor:
    """Looks after a server's parts and its store. Its methods belong on the event loop's thread, but for the probes."""

    def __init__(
        self,
        committer: Committer,
        readers: Readers,
        catch_up_readers: Readers,
        *,
        restartable: Sequence[Restartable] = (),
        ageing: Sequence[Ageing] = (),
        on_health: Callable[[bool], None],
        probe: Callable[[], asyncio.Future[Any]],
        give_up: Callable[[str], None],
    ) -> None:
        """
        Args:
            restartable: parts to begin anew when they die, besides the readers.
            ageing: parts that take a turn a second, besides the committer and the readers.
            on_health: told when the server can no longer serve, and when it can again.
            probe: looked at beside the store, as often; what it finds is its own to tell.
            give_up: ends the process; is told why, on any thread.
        """
        self.health = Health(on_health)
        self._committer = committer
        self._readers = readers
        self._catch_up_readers = catch_up_readers
        self._probe = probe
        self._turn = 0
        self._is_stopping = False
        self.watchdog = Watchdog(
            vital=(committer,),
            restartable=(readers, catch_up_readers, *restartable),
            ageing=(committer, readers, catch_up_readers, *ageing, self),
            give_up=give_up,
        )

    def start(self) -> None:
        """Begin to watch, on the running event loop."""
        self.watchdog.start()

    def stop(self) -> None:
        """Watch no more, and tell probes that the server stops."""
        self._is_stopping = True
        self.watchdog.stop()

    async def look_at_store(self) -> None:
        """Write and read once before anybody is told that this server serves; what fails is told by health."""
        probes = (self._committer.run(lambda transaction: transaction.probe()), self._readers.probe())
        await asyncio.wait(probes, timeout=SILENT_TURNS_MAX * TURN_S)
        for probe in probes:
            probe.add_done_callback(_retrieved)
        self.health.tell("reads", self._readers.trouble)

    def reachable(self, is_reachable: bool) -> None:
        """Take note of whether the store can be written."""
        problem = self._committer.store_problem
        self.health.tell("writes", None if is_reachable else f"the store cannot be written: {problem}")

    def turn(self) -> None:
        """A second has passed: look at what callers would meet."""
        silence = max(self._committer.silence, self._readers.silence, self._catch_up_readers.silence)
        is_silent = silence >= SILENT_TURNS_MAX
        self.health.tell("silence", f"the store has not answered for {silence} s" if is_silent else None)
        self.health.tell("reads", self._readers.trouble or self._catch_up_readers.trouble)
        self._turn += 1
        if self._turn % PROBE_TURNS == 0 and not silence:
            # What these find is told as what any other change or read finds.
            looks = (self._committer.probe(), self._readers.probe(), self._catch_up_readers.probe(), self._probe())
            for look in looks:
                look.add_done_callback(_retrieved)

    def liveness(self) -> str | None:
        """Why this process should be ended, None when it should not: a restart mends no store. On any thread."""
        if self._committer.dead:
            return f"the thread {self._committer.dead[0]} has died"
        silence = self.watchdog.loop_silence
        return f"the event loop has not turned for {silence} s" if silence >= SILENT_TURNS_MAX else None

    def readiness(self) -> str | None:
        """Why this server should be sent no calls, None when it can answer them. On any thread."""
        if self._is_stopping:
            return "the server is stopping"
        return "; ".join(self.health.troubles) or self.liveness()


def _retrieved(probe: asyncio.Future[Any]) -> None:
    """Nobody waits for it: its error is told by health."""
    if not probe.cancelled():
        probe.exception()
