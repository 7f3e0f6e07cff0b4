"""The watchdog: a thread that sees once a second whether every part of the server lives and moves on.

Ages are counted in its own turns: a process that was frozen took none, so nothing has aged in it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

log = logging.getLogger(__name__)

TURN_S = 1.0
"""From one turn to the next."""

LOOP_SILENT_TURNS_MAX = 5
"""A loop that has not turned for so long serves nobody. A busy one turns many times a second."""

RESTARTS_MAX = 3
"""Restarts of parts within ``RESTARTS_TURNS``. What dies more often will not be mended by another restart."""

RESTARTS_TURNS = 60


class Part(Protocol):
    """Something with threads of its own."""

    @property
    def dead(self) -> Sequence[str]:
        """The names of its threads that have ended, though nobody told them to. Asked from any thread."""


class Restartable(Part, Protocol):
    """A part that can be begun anew without harm."""

    def restart(self) -> None:
        """Put a new thread in the place of each that has died. Called on the event loop."""


class Ageing(Protocol):
    """A part in which somebody waits."""

    def turn(self) -> None:
        """A second has passed in which this process ran. Called on the event loop."""


class Watchdog:
    """Looks after the parts of one server."""

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
            vital: parts without which nothing that is waited for will ever be answered.
            give_up: ends the process; is told why. Called once, from any thread.
        """
        self._vital = vital
        self._restartable = list(restartable)
        self._ageing = list(ageing)
        self._give_up = give_up
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = 0
        self._answered = 0
        """The last turn that the loop has answered."""
        self._asked = 0
        self._restarts: deque[int] = deque(maxlen=RESTARTS_MAX)
        """The turns of the latest restarts."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @property
    def loop_silence(self) -> int:
        """For how many turns the event loop has owed an answer."""
        return self._turn - self._asked if self._asked > self._answered else 0

    def look_after(self, part: Restartable) -> None:
        """Look after one part more."""
        self._restartable.append(part)

    def give_turns(self, part: Ageing) -> None:
        """Let one part more take its turns."""
        self._ageing.append(part)

    def start(self) -> None:
        """Begin to watch, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Watch no more: what ends from now on was told to."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(TURN_S):
                self.take_turn()
        except BaseException:
            # Nobody looks after the watchdog, so without it the process ends too.
            log.exception("the watchdog's thread has died")
            self._end("the thread watchdog has died")

    def take_turn(self) -> None:
        """Look at everything once."""
        self._turn += 1
        for part in self._vital:
            for name in part.dead:
                self._end(f"the thread {name} has died")
                return
        if self._asked > self._answered:
            if self._turn - self._asked >= LOOP_SILENT_TURNS_MAX:
                self._end(f"the event loop has not turned for {LOOP_SILENT_TURNS_MAX} s")
            return
        self._asked = self._turn
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._on_loop, self._turn)

    def _on_loop(self, turn: int) -> None:
        """The part of a turn that belongs on the event loop's thread; that it comes to be run is itself an answer."""
        self._answered = turn
        if self._stopping.is_set():
            return
        for part in self._restartable:
            self._look_after(part, turn)
        for ageing in self._ageing:
            try:
                ageing.turn()
            except Exception:
                log.exception("a part could not take its turn", extra={"part": type(ageing).__name__})

    def _look_after(self, part: Restartable, turn: int) -> None:
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
