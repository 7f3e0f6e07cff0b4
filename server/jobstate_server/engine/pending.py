"""What waits for the committer's thread, and what that is given to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jobstate_server.domain.commands import Command
from jobstate_server.domain.errors import JobStateError
from jobstate_server.engine.batch import Verdict
from jobstate_server.store.base import Transaction


class Pending:
    """Commands, and how to tell whoever waits for them."""

    __slots__ = ("commands", "future", "is_many", "rows", "since", "size")

    def __init__(
        self,
        commands: Sequence[Command],
        future: asyncio.Future[Any],
        *,
        rows: int,
        size: int,
        is_many: bool,
        since: int,
    ) -> None:
        self.commands = commands
        self.future = future
        self.rows = rows
        self.size = size
        self.is_many = is_many
        self.since = since
        """The turn of the watchdog in which they came."""

    def settle(self, verdicts: Iterator[Verdict]) -> None:
        """Take the verdicts of these commands, which are next, and tell them."""
        told = list(islice(verdicts, len(self.commands))) if self.is_many else next(verdicts)
        if not self.future.done():
            settle(self.future, told)

    def fail(self, error: JobStateError) -> None:
        """Tell whoever still waits that nothing is known of these commands."""
        if not self.future.done():
            settle(self.future, [error] * len(self.commands) if self.is_many else error)


class Work:
    """Something to do in a transaction of its own: what maintenance needs of the store besides commands."""

    __slots__ = ("future", "run")

    def __init__(self, run: Callable[[Transaction], Any], future: asyncio.Future[Any]) -> None:
        self.run = run
        self.future = future


class DueCheck:
    """The word that something may have fallen due."""


DUE_CHECK = DueCheck()

Item = Pending | Work | DueCheck


@dataclass(slots=True)
class Handed:
    """What the thread is given to do: one transaction of commands, then perhaps some work."""

    pending: list[Pending] = field(default_factory=list)
    serve_due: bool = False
    work: Work | None = None
    since: int = 0
    """The turn of the watchdog in which the thread could begin it."""


def settle(future: asyncio.Future[Any], value: Any) -> None:
    """Give a future that is not done its value, or its error."""
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
