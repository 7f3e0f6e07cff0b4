"""The bell of a shared store: PostgreSQL's LISTEN, or looking again and again where that does not get through.

Each commit notifies with the head of the log and the earliest due time it wrote. A pooler in transaction mode swallows
notifications, so the bell tries itself once whenever it has connected.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import psycopg

from jobstate_server.store.postgres.connection import Postgres, raise_store_error
from jobstate_server.store.records import Notification

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 1.0
"""How long a notification of our own may take before the bell is thought deaf. It takes a millisecond."""

POLL_INTERVAL_S = 0.1
"""How often a deaf bell looks at the log: half of the time within which a due job has to be noticed."""

_POLL = b"SELECT log.head, (SELECT min(due_time) FROM job WHERE due_time IS NOT NULL) FROM log"
_PROBE = "probe "
_SETTINGS = {"statement_timeout": "10s"}


def channel_of(log_id: str) -> str:
    """The channel on which the commits of a log are told; databases may hold several logs, in schemas."""
    return f"jobstate_{log_id}"


class PostgresNotifier:
    """A ``Bell`` on a connection of its own."""

    def __init__(self, url: str, channel: str, own_process: Callable[[], int | None]) -> None:
        """``own_process`` tells PostgreSQL's process of this server's writer, whose commits need not be told here."""
        self._channel = channel
        self._own_process = own_process
        self._database = Postgres(url, _SETTINGS)
        self._prober = Postgres(url, {})
        self._is_listening = False
        self._last_polled = Notification(0, None)

    @property
    def is_listening(self) -> bool:
        """Whether notifications get through."""
        return self._is_listening

    def wait(self, timeout_s: float) -> Notification | None:
        try:
            if self._database.is_closed():
                # What was told while nobody listened is not told again: look once.
                self._listen(self._database.raw_connection)
                return self._poll()
            if self._is_listening:
                return self._receive(timeout_s)
            return self._poll_until(time.monotonic() + timeout_s)
        except psycopg.Error as error:
            self._database.close()
            raise_store_error(error)

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(f'LISTEN "{self._channel}"'.encode())
        probe = f"{_PROBE}{secrets.token_hex(8)}"
        # From another connection: a pooler passes on what comes while the listener's own statement is under way.
        with closing(self._prober):
            self._prober.raw_connection.execute(b"SELECT pg_notify(%s, %s)", (self._channel, probe))
        told = connection.notifies(timeout=PROBE_TIMEOUT_S)
        is_listening = any(notification.payload == probe for notification in _until(told, probe))
        if not is_listening:
            log.warning("PostgreSQL's notifications do not get through, a pooler may stand between: polling instead")
        self._is_listening = is_listening

    def _receive(self, timeout_s: float) -> Notification | None:
        end = time.monotonic() + timeout_s
        while True:
            told = list(self._database.raw_connection.notifies(timeout=max(0.0, end - time.monotonic()), stop_after=1))
            own = self._own_process()
            payloads = [one.payload for one in told if one.pid != own and not one.payload.startswith(_PROBE)]
            try:
                notifications = [_notified(payload) for payload in payloads]
            except ValueError:
                # Another release tells it in other words.
                return self._poll()
            if notifications:
                due = [notification.next_due for notification in notifications if notification.next_due is not None]
                return Notification(max(notification.head for notification in notifications), min(due, default=None))
            if time.monotonic() >= end:
                return None

    def _poll(self) -> Notification:
        head, next_due = self._database.raw_connection.execute(_POLL, prepare=True).fetchone() or (0, None)
        return Notification(head, next_due)

    def _poll_until(self, end: float) -> Notification | None:
        while True:
            found = self._poll()
            if found != self._last_polled:
                self._last_polled = found
                return found
            left = end - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, POLL_INTERVAL_S))

    def disconnect(self) -> None:
        self._database.disconnect()
        self._prober.disconnect()

    def close(self) -> None:
        self._database.close()


def _until(told: Iterable[psycopg.Notify], last: str) -> Iterable[psycopg.Notify]:
    for notification in told:
        yield notification
        if notification.payload == last:
            return


def _notified(payload: str) -> Notification:
    head, _, next_due = payload.partition(" ")
    return Notification(int(head), int(next_due) if next_due else None)
