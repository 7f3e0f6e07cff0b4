"""Listens to the store's notifier, on a thread of its own, for what other replicas commit.

A notification is a hint. After a time without any, the log is looked at all the same, so nothing depends on it alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from jobstate_server.store.base import Notifier
from jobstate_server.store.errors import StoreError
from jobstate_server.store.records import Notification

log = logging.getLogger(__name__)

NOTIFICATION_WAIT_S = 0.25
"""How long one wait for a notification takes. A stopping server waits no longer than this for it."""

QUIET_WAITS_MAX = 4
"""After so many waits without a notification the log is looked at."""

SILENT_TURNS_MAX = 3
"""Seconds in which the thread finishes no wait, after which the log is looked at once a second instead."""

DISCONNECT_TURNS = 15
"""Seconds in which PostgreSQL may leave the thread without an answer before its connection is ended."""

STUCK_TURNS = DISCONNECT_TURNS + 5
"""Seconds after which a thread that a new connection has not helped is replaced."""

STOP_WAIT_S = 0.5
"""How long a stop waits for the thread: a database that does not answer must not hold it up."""

RETRY_S = 0.5
"""When to listen again after the notifier could not be reached."""


class NotificationListener:
    """Passes notifications to the event loop. Its methods belong on the event loop's thread."""

    def __init__(
        self,
        notifier: Notifier,
        reopen: Callable[[], Notifier | None],
        on_notification: Callable[[Notification], object],
        on_quiet: Callable[[], object],
    ) -> None:
        """
        Args:
            reopen: opens another notifier for a thread that takes the place of one that hangs in the first.
            on_notification: called on the event loop.
            on_quiet: called on the event loop when no notification has come for a time.
        """
        self._notifier = notifier
        self._reopen = reopen
        self._on_notification = on_notification
        self._on_quiet = on_quiet
        self._stopping = threading.Event()
        self._waits = 0
        """How many waits the thread has begun."""
        self._waits_seen = 0
        self._silent_turns = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def dead(self) -> list[str]:
        """The name of the thread, if it has ended without being told to, or hangs."""
        has_died = self._thread.ident is not None and not self._thread.is_alive()
        is_gone = has_died or self._silent_turns > STUCK_TURNS
        return [self._thread.name] if is_gone and not self._stopping.is_set() else []

    def restart(self) -> None:
        """Listen again, and have the log looked at for what was missed. A thread that hangs is left behind."""
        self._notifier.disconnect()
        self._notifier = self._reopen() or self._notifier
        self._silent_turns = 0
        self._thread = self._new_thread()
        self._thread.start()
        self._on_quiet()

    def turn(self) -> None:
        """A second has passed: a database that does not answer is not waited for for ever. Called by the watchdog."""
        self._silent_turns = self._silent_turns + 1 if self._waits == self._waits_seen else 0
        self._waits_seen = self._waits
        if self._silent_turns and self._silent_turns % DISCONNECT_TURNS == 0:
            self._notifier.disconnect()
        if self._silent_turns > SILENT_TURNS_MAX:
            self._on_quiet()

    async def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, STOP_WAIT_S)

    # What follows runs on the thread.

    def _run(self) -> None:
        try:
            self._listen()
        except Exception:
            # The watchdog sees that the thread is gone; nothing else would say why.
            log.exception("the notifier's thread has died")

    def _listen(self) -> None:
        notifier = self._notifier
        quiet_waits = 0
        is_reachable = True
        while not self._stopping.is_set() and self._notifier is notifier:
            self._waits += 1
            try:
                notification = notifier.wait(NOTIFICATION_WAIT_S)
            except StoreError as error:
                if is_reachable:
                    log.warning("the notifier cannot be reached", extra={"cause": str(error)})
                is_reachable = False
                self._stopping.wait(RETRY_S)
                continue
            is_reachable = True
            quiet_waits = 0 if notification is not None else quiet_waits + 1
            if notification is not None:
                self._call(self._on_notification, notification)
            elif quiet_waits >= QUIET_WAITS_MAX:
                quiet_waits = 0
                self._call(self._on_quiet)
        notifier.close()

    def _call(self, callback: Callable[..., object], *values: Notification) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(callback, *values)
