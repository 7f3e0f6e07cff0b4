"""Sabotage inside a server: the next turn of a thread or task, chosen by name, raises or never ends.

Or the process stops where it hurts: between a commit and its answers, or in the middle of a hand-out.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from jobstate_server.app import Server
from jobstate_server.domain.commands import Acquire

ENDS_THE_PROCESS = ("committer", "delivery", "loop")
"""Parts without which nothing is answered: the process ends by itself, with 70."""

RESTARTED = ("reader", "catch-up reader", "due timer", "event limit")
"""Parts that are begun anew."""

RESTARTED_OF_REPLICAS = ("notifier", "membership")

BEFORE_THE_ANSWER = "before the answer"
"""The process is killed when it has committed a hand-out, and has answered nobody."""

IN_ITS_TURN = "in its turn"
"""The process is stopped while it alone may hand out jobs of a type."""

COMMITS_MAX = 50
"""Commits after which it is killed though nothing was handed out."""

IN_ITS_TURN_S = 3.0
"""How long to wait for a hand-out to stop in."""

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
    elif part == BEFORE_THE_ANSWER:
        _kill_after_a_commit(server)
    elif part == IN_ITS_TURN:
        _stop_in_a_turn(server)
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


def _kill_after_a_commit(server: Server) -> None:
    writer = server.committer._writer
    commit = writer.commit
    commits = 0

    def commits_and_dies(commands: Any, calls: Any = ()) -> Any:
        nonlocal commits
        written = commit(commands, calls)
        commits += 1
        asked = [command for command in commands if type(command) is Acquire]
        if (written.events and (asked or written.handed)) or commits > COMMITS_MAX:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    writer.commit = commits_and_dies  # type: ignore[method-assign]


def _stop_in_a_turn(server: Server) -> None:
    dispatcher = server.committer._writer._dispatcher
    offer = dispatcher._pick
    until = time.monotonic() + IN_ITS_TURN_S

    def offers_and_stops(transaction: Any, batch: Any, *args: Any, **kwargs: Any) -> bool:
        is_complete = offer(transaction, batch, *args, **kwargs)
        if batch.handing_out.turns and time.monotonic() < until:
            dispatcher._pick = offer  # type: ignore[method-assign]
            os.kill(os.getpid(), signal.SIGSTOP)
        return is_complete

    dispatcher._pick = offers_and_stops  # type: ignore[method-assign]


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
