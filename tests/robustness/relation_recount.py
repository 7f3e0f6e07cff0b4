"""A recount of what a store keeps of needs and groups: each count beside the rows that it counts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from jobstate_server.domain.job import FINAL_STATES, JobState

from ..support.clock import PATIENCE_S

_FINAL = ", ".join(str(int(state)) for state in sorted(FINAL_STATES))


def _members(state: JobState) -> str:
    return f"(SELECT count(*) FROM job WHERE group_key = members.group_key AND state = {int(state)})"  # noqa: S608


RECOUNTS = {
    # Members of a group that is over may have been deleted, and count all the same.
    "the members of {} are not as many as its row says": f"""
SELECT group_id FROM members WHERE NOT final AND (
    total <> (SELECT count(*) FROM job WHERE group_key = members.group_key)
    OR completed <> {_members(JobState.COMPLETED)}
    OR permanently_failed <> {_members(JobState.PERMANENTLY_FAILED)}
    OR cancelled <> {_members(JobState.CANCELLED)})
""",  # noqa: S608
    "{} waits for more or fewer needs than are open": """
SELECT id FROM job WHERE open_needs > 0 AND state = 1 AND open_needs <> (
    SELECT count(*) FROM need WHERE child_key = job.create_sequence AND outcome IS NULL)
""",
    "{} has a need that is open, and its needed job has ended and is not due": f"""
SELECT child.id FROM need
JOIN job AS child ON child.create_sequence = need.child_key
JOIN job AS parent ON parent.create_sequence = need.parent_key
WHERE outcome IS NULL AND child.open_needs > 0 AND child.state = 1
    AND parent.state IN ({_FINAL}) AND parent.due_time IS NULL
""",  # noqa: S608
    "the unfinished jobs that need the job with the key {} are not as many as its row says": f"""
SELECT parent_key FROM (
    SELECT parent_key, unfinished AS count FROM needed
    UNION ALL
    SELECT parent_key, -1 FROM need JOIN job ON job.create_sequence = need.child_key WHERE state NOT IN ({_FINAL})
) AS counts GROUP BY parent_key HAVING sum(count) <> 0
""",  # noqa: S608
    "{} is needed, and does not know": """
SELECT id FROM job JOIN needed ON parent_key = create_sequence WHERE NOT job.needed AND unfinished > 0
""",
    "the group {} is over, or is not, and its row says otherwise": f"""
SELECT id FROM job JOIN members ON members.group_key = job.create_sequence WHERE final <> (state IN ({_FINAL}))
""",  # noqa: S608
}
"""One statement for each, so that what it compares is of one moment."""


def recount(store: Path | str) -> list[str]:
    """What a recount finds wrong with a store, which may be in use."""
    if isinstance(store, Path):
        with closing(sqlite3.connect(store, timeout=PATIENCE_S)) as connection:
            return _problems(connection)
    with psycopg.connect(store, autocommit=True) as database:
        return _problems(database)


def _problems(connection: Any) -> list[str]:
    return [
        problem.format(name) for problem, query in RECOUNTS.items() for (name,) in connection.execute(query).fetchall()
    ]
