"""The supervisor of one server: its watchdog, its health, and its answers to liveness and readiness probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.supervision.health import Health
from jobstate_server.supervision.watchdog import TURN_S, Ageing, Restartable, Watchdog

SILENT_TURNS_MAX = 5
"""Seconds for which the store may leave a change or a read unanswered before health turns to NOT_SERVING."""

PROBE_TURNS = 5
"""Seconds between two probes of the store. Without calls, a lost store is noticed within this time."""


class Supervisor:
    """Watches a server's parts and its store.

    Use on the event loop's thread, except for ``liveness`` and ``readiness``.
    """

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
            restartable: parts to restart when they stop, besides the readers.
            ageing: parts that take a turn every second, besides the committer and the readers.
            on_health: called with False when the server stops serving, and with True when it serves again.
            probe: called whenever the store is probed. It reports its own result.
            give_up: ends the process. Called with the reason, from any thread.
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
        """Start watching. Call on the running event loop."""
        self.watchdog.start()

    def stop(self) -> None:
        """Stop watching. From now on the server is not ready."""
        self._is_stopping = True
        self.watchdog.stop()

    async def probe_store(self) -> None:
        """Write and read once, before the server starts to serve. Health reports what fails."""
        probes = (self._committer.run(lambda transaction: transaction.probe()), self._readers.probe())
        await asyncio.wait(probes, timeout=SILENT_TURNS_MAX * TURN_S)
        for probe in probes:
            probe.add_done_callback(_retrieve_error)
        self._report_start(probes)
        self.health.report("reads", self._readers.store_problem)

    def _report_start(self, probes: Sequence[asyncio.Future[Any]]) -> None:
        """Report a store that has not answered the first probes, until it has."""
        waiting = [probe for probe in probes if not probe.done()]
        self.health.report("start", "the store has not answered since the start" if waiting else None)
        if waiting:
            waiting[0].add_done_callback(lambda _: self._report_start(waiting))

    def on_reachable(self, is_reachable: bool) -> None:
        """Report whether the store can be written."""
        problem = self._committer.store_state.problem
        self.health.report("writes", None if is_reachable else f"the store cannot be written: {problem}")

    def turn(self) -> None:
        """Check once a second what callers would meet. Called by the watchdog."""
        silence = max(self._committer.silence, self._readers.silence, self._catch_up_readers.silence)
        is_silent = silence >= SILENT_TURNS_MAX
        self.health.report("silence", f"the store has not answered for {silence} s" if is_silent else None)
        self.health.report("reads", self._readers.store_problem or self._catch_up_readers.store_problem)
        self._turn += 1
        if self._turn % PROBE_TURNS == 0 and not silence:
            # A probe that fails is reported as any other change or read that fails.
            probes = (self._committer.probe(), self._readers.probe(), self._catch_up_readers.probe(), self._probe())
            for probe in probes:
                probe.add_done_callback(_retrieve_error)

    def liveness(self) -> str | None:
        """Why this process should be restarted, None when it should not. Any thread may call this.

        A store that does not answer is no reason: a restart of the server does not repair it.
        """
        if self._committer.dead:
            return f"the thread {self._committer.dead[0]} has died"
        silence = self.watchdog.loop_silence
        return f"the event loop has not turned for {silence} s" if silence >= SILENT_TURNS_MAX else None

    def readiness(self) -> str | None:
        """Why this server should get no calls, None when it can answer them. Any thread may call this."""
        if self._is_stopping:
            return "the server is stopping"
        return "; ".join(self.health.problems) or self.liveness()


def _retrieve_error(probe: asyncio.Future[Any]) -> None:
    """Mark the probe's error as seen, so that asyncio does not log it. Health reports it."""
    if not probe.cancelled():
        probe.exception()
