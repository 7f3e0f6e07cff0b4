"""Waits until ends have reached all that they are to reach: jobs that need what ended, and groups of what ended."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg

from jobstate_server.domain.job import FINAL_STATES

from ..support.clock import PATIENCE_S
from ..support.waiting import pause

LOOK_EVERY_S = 0.1

_FINAL = ", ".join(str(int(state)) for state in sorted(FINAL_STATES))

_LEFT = f"""
SELECT head,
    (SELECT count(*) FROM job WHERE due_time IS NOT NULL AND state IN ({_FINAL})),
    (SELECT count(*) FROM members WHERE due_time IS NOT NULL)
FROM log
"""  # noqa: S608
"""One statement, so that all of it is of one moment."""


def _left(store: Path | str) -> tuple[int, int, int]:
    """The newest sequence, how many ended jobs others must yet be told of, and how many groups are due."""
    if isinstance(store, Path):
        with closing(sqlite3.connect(store, timeout=PATIENCE_S)) as connection:
            head, ended, groups = connection.execute(_LEFT).fetchone()
    else:
        with psycopg.connect(store) as database:
            ((head, ended, groups),) = database.execute(_LEFT.encode()).fetchall()
    return int(head), int(ended), int(groups)


async def settle(store: Path | str) -> tuple[int, list[str]]:
    """Wait until nothing is left to be told.

    Returns:
        The newest sequence at that moment, and nothing. Or, if it does not come, 0 and what is left.
    """
    until = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        head, ended, groups = await asyncio.to_thread(_left, store)
        if not (ended or groups):
            return head, []
        if asyncio.get_running_loop().time() > until:
            return 0, [f"the ends of {ended} jobs have not reached all that need them, and {groups} groups stay due"]
        await pause(LOOK_EVERY_S)
