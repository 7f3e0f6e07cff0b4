"""Notifies a server of commits to a shared store, through PostgreSQL's LISTEN, or by polling where that does not work.

Each commit sends the head of the log and the earliest due time that it wrote to jobs. If it changed groups, it sends
another with theirs. A pooler in transaction mode drops notifications, so the notifier sends itself one whenever it has
connected.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from typing import Any

import psycopg

from jobstate_server.store.postgres.connection import Postgres, raise_store_error
from jobstate_server.store.records import ANY_TYPE, Notification

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 1.0
"""How long the notifier waits for its own notification before it polls instead. Normally it takes a millisecond."""

POLL_INTERVAL_S = 0.1
"""How often the log is polled when notifications do not arrive."""

_POLL = (
    b"SELECT log.head, log.erasures, LEAST((SELECT min(due_time) FROM job WHERE due_time IS NOT NULL),"
    b" (SELECT min(due_time) FROM members WHERE due_time IS NOT NULL)) FROM log"
)
TYPES_LENGTH_MAX = 4_000
"""Characters of the job types in a notification, all of them ASCII. PostgreSQL refuses 8,000 bytes and with them the
transaction."""

ERASED = "!"
"""In place of a job type: events were erased. It is not the name of a type."""

_PROBE = "probe "
_SETTINGS = {"statement_timeout": "10s"}


def channel_of(log_id: str) -> str:
    """The channel of a log's commits. A database may have several logs, one per schema."""
    return f"jobstate_{log_id}"


class PostgresNotifier:
    """A ``Notifier`` on its own connection."""

    def __init__(self, url: str, channel: str, own_process: Callable[[], int | None]) -> None:
        """``own_process`` returns the backend process of this server's writer, whose commits are not reported."""
        self._channel = channel
        self._own_process = own_process
        self._database = Postgres(url, _SETTINGS)
        self._prober = Postgres(url, {})
        self._is_listening = False
        self._last_polled = Notification(0, None, ANY_TYPE)
        self._erasures = -1
        """How often events had been erased at the last poll."""

    @property
    def is_listening(self) -> bool:
        """Whether notifications get through."""
        return self._is_listening

    def wait(self, timeout_s: float) -> Notification | None:
        try:
            if self._database.is_closed():
                # Notifications sent before LISTEN are lost, so poll once.
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
        # From another connection: a pooler delivers notifications that arrive during the listener's own statement.
        with closing(self._prober):
            self._prober.raw_connection.execute(b"SELECT pg_notify(%s, %s)", (self._channel, probe))
        received = connection.notifies(timeout=PROBE_TIMEOUT_S)
        is_listening = any(notification.payload == probe for notification in _until(received, probe))
        if not is_listening:
            log.warning("PostgreSQL's notifications do not arrive, perhaps because of a pooler; polling instead")
        self._is_listening = is_listening

    def _receive(self, timeout_s: float) -> Notification | None:
        end = time.monotonic() + timeout_s
        while True:
            received = list(
                self._database.raw_connection.notifies(timeout=max(0.0, end - time.monotonic()), stop_after=1)
            )
            own = self._own_process()
            payloads = [one.payload for one in received if one.pid != own and not one.payload.startswith(_PROBE)]
            try:
                notifications = [_notified(payload) for payload in payloads]
            except ValueError:
                # Another release uses another format.
                return self._poll()
            if notifications:
                due = [notification.next_due for notification in notifications if notification.next_due is not None]
                return Notification(
                    max(notification.head for notification in notifications),
                    min(due, default=None),
                    frozenset().union(*(notification.ready_types for notification in notifications)),
                    any(notification.has_erased for notification in notifications),
                )
            if time.monotonic() >= end:
                return None

    def _poll(self) -> Notification:
        row = self._database.raw_connection.execute(_POLL, prepare=True).fetchone() or (0, 0, None)
        head, erasures, next_due = row
        has_erased, self._erasures = erasures != self._erasures, erasures
        return Notification(head, next_due, ANY_TYPE, has_erased)

    def _poll_until(self, end: float) -> Notification | None:
        while True:
            found = self._poll()
            if found != self._last_polled:
                self._last_polled = found._replace(has_erased=False)
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


def _until(received: Iterable[psycopg.Notify], last: str) -> Iterable[psycopg.Notify]:
    for notification in received:
        yield notification
        if notification.payload == last:
            return


def _notified(payload: str) -> Notification:
    head, next_due, *names = payload.split(" ")
    ready_types = frozenset(names) - {ERASED}
    return Notification(int(head), int(next_due) if next_due else None, ready_types, ERASED in names)


def notified_text(next_due: int | None, ready_types: Collection[str]) -> str:
    """What a notification says after the head of the log."""
    types = " ".join(ready_types)
    if len(types) > TYPES_LENGTH_MAX:
        types = " ".join(ANY_TYPE)
    due = "" if next_due is None else str(next_due)
    return f"{due} {types}" if types else due
