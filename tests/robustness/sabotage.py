"""Sabotage inside a server: the next turn of a thread or task, chosen by name, raises or never ends."""

from __future__ import annotations

import threading
from typing import Any

from jobstate_server.app import Server

ENDS_THE_PROCESS = ("committer", "delivery", "loop")
"""Parts without which nothing is answered: the process ends by itself, with 70."""

RESTARTED = ("reader", "catch-up reader", "due timer", "event limit")
"""Parts that are begun anew."""

RESTARTED_OF_REPLICAS = ("notifier", "membership")

BLOCKED_S = 600.0


class Sabotaged(Exception):
    """Nothing of the server's own."""


def sabotage(server: Server, part: str) -> None:
    """Break a part at its next turn. Called on the event loop."""
    if part == "loop":
        threading.Event().wait(BLOCKED_S)
        return
    if part == "delivery":
        server.committer.events_written.subscribe(_fail)
    elif part == "membership":
        _fail_at_use(server.membership, "_committer", "run")
    else:
        _raise_once(*_turn_of(server, part))


def _turn_of(server: Server, part: str) -> tuple[Any, str]:
    match part:
        case "committer":
            return server.committer._writer, "commit"
        case "reader":
            return server.readers._queue, "take"
        case "catch-up reader":
            return server.catch_up_readers._queue, "take"
        case "due timer":
            return server.due_timer, "serve_due"
        case "event limit":
            return server.event_limit, "trim"
        case "notifier":
            assert server.replication is not None
            return server.replication.listener._notifier, "wait"
    raise ValueError(part)


def _fail(*_: Any) -> None:
    raise Sabotaged("delivery")


def _raise_once(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def fails(*_: Any, **__: Any) -> None:
        setattr(owner, name, original)
        raise Sabotaged(name)

    setattr(owner, name, fails)


class _FailsOnce:
    """Stands in for what a part uses, until the part uses it."""

    def __init__(self, user: Any, attribute: str, name: str) -> None:
        self._user, self._attribute, self._name = user, attribute, name
        self._original = getattr(user, attribute)

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            setattr(self._user, self._attribute, self._original)
            raise Sabotaged(name)
        return getattr(self._original, name)


def _fail_at_use(user: Any, attribute: str, name: str) -> None:
    """Raise where a part next uses something that others use too, and should not find broken."""
    setattr(user, attribute, _FailsOnce(user, attribute, name))
