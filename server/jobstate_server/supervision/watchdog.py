"""The watchdog: a thread that checks once a second whether every part of the server is alive and makes progress.

It counts time in its own turns. A process that was frozen took no turns, so nothing timed out meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)

TURN_S = 1.0
"""Seconds from one turn to the next."""

LOOP_SILENT_TURNS_MAX = 5
"""An event loop that has not run for this long serves nobody. A busy one runs many times a second."""

RESTARTS_MAX = 3
"""Restarts within ``RESTARTS_TURNS``. If parts die more often, another restart will not help: the process exits."""

RESTARTS_TURNS = 60


class Part(Protocol):
    """Something with threads of its own."""

    @property
    def dead(self) -> Sequence[str]:
        """The names of its threads that ended or hang without having been stopped. Any thread may ask."""


class Restartable(Part, Protocol):
    """A part that can be restarted without harm."""

    def restart(self) -> None:
        """Replace each dead thread with a new one. Called on the event loop."""


class Ageing(Protocol):
    """A part with something that must not wait for ever."""

    def turn(self) -> None:
        """Count one second in which this process ran. Called on the event loop."""


class Watchdog:
    """Watches the parts of one server."""

    def __init__(
        self,
        *,
        vital: Sequence[Part],
        restartable: Sequence[Restartable],
        ageing: Sequence[Ageing],
        give_up: Callable[[str], None],
    ) -> None:
        """
        Args:
            vital: parts without which no waiting call would ever be answered. If one dies, the process ends.
            restartable: parts to restart when they die.
            ageing: parts that take a turn every second.
            give_up: ends the process. Called once, with the reason, from any thread.
        """
        self._vital = vital
        self._restartable = list(restartable)
        self._ageing = list(ageing)
        self._give_up = give_up
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = 0
        self._asked = 0
        """The last turn in which the event loop was asked to run a callback."""
        self._answered = 0
        """The last turn for which it did."""
        self._restarts: deque[int] = deque(maxlen=RESTARTS_MAX)
        """The turns in which the latest restarts happened."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @property
    def loop_silence(self) -> int:
        """How many turns ago the event loop was asked to run a callback that it has not run; 0 when it has."""
        return self._turn - self._asked if self._asked > self._answered else 0

    def add_restartable(self, part: Restartable) -> None:
        """Also restart this part when it dies."""
        self._restartable.append(part)

    def add_ageing(self, part: Ageing) -> None:
        """Also let this part take a turn every second."""
        self._ageing.append(part)

    def start(self) -> None:
        """Start watching. Call on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching: threads that end from now on were stopped."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(TURN_S):
                self.take_turn()
        except BaseException:
            # Nobody watches the watchdog, so the process ends with it.
            log.exception("the watchdog's thread has died")
            self._end("the thread watchdog has died")

    def take_turn(self) -> None:
        """Check everything once."""
        self._turn += 1
        for part in self._vital:
            for name in part.dead:
                self._end(f"the thread {name} has died")
                return
        if self._asked > self._answered:
            if self._turn - self._asked >= LOOP_SILENT_TURNS_MAX:
                self._end(f"the event loop has not turned for {LOOP_SILENT_TURNS_MAX} s")
            return
        assert self._loop is not None
        if self._loop.is_closed():
            # A start that failed has ended the loop, and the process is about to exit.
            self._stopping.set()
            return
        self._asked = self._turn
        self._loop.call_soon_threadsafe(self._on_loop, self._turn)

    def _on_loop(self, turn: int) -> None:
        """Do what belongs on the event loop's thread. That this runs shows that the loop is alive."""
        self._answered = turn
        if self._stopping.is_set():
            return
        for part in self._restartable:
            with _logged(part):
                self._restart_if_dead(part, turn)
        for ageing in self._ageing:
            with _logged(ageing):
                ageing.turn()

    def _restart_if_dead(self, part: Restartable, turn: int) -> None:
        names = part.dead
        if not names:
            return
        if len(self._restarts) == RESTARTS_MAX and turn - self._restarts[0] < RESTARTS_TURNS:
            self._end(f"the thread {names[0]} has died, after {RESTARTS_MAX} restarts within {RESTARTS_TURNS} s")
            return
        self._restarts.append(turn)
        log.error("a part has stopped and is restarted", extra={"part": ", ".join(names)})
        part.restart()

    def _end(self, why: str) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            log.critical("the server gives up", extra={"cause": why})
            self._give_up(why)


@contextmanager
def _logged(part: object) -> Iterator[None]:
    """Log an exception of one part, so that the others get their turn."""
    try:
        yield
    except Exception:
        log.exception("a part failed in its turn", extra={"part": type(part).__name__})
