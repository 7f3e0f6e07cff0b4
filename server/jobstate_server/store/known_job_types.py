"""Finds the job types that have ever had a job. Every job is counted in the tallies of its type."""

from __future__ import annotations

from collections.abc import Collection

from peewee import Database

from jobstate_server.domain.statistics import Measure
from jobstate_server.store.chunks import chunks
from jobstate_server.store.models import TallyRow

_ALL = """
WITH RECURSIVE used(name) AS (
    SELECT MIN(job_type) FROM tally
    UNION ALL
    SELECT (SELECT MIN(job_type) FROM tally WHERE job_type > used.name) FROM used WHERE used.name IS NOT NULL
)
SELECT name FROM used WHERE name IS NOT NULL
"""
"""One index lookup for each type, however many rows the type has."""

_NAMES_AT_ONCE = 256


def known_job_types(database: Database, among: Collection[str] | None) -> set[str]:
    """The types of ``among`` that have ever had a job; all such types when it is None."""
    if among is None:
        return {name for (name,) in database.execute_sql(_ALL)}
    found: set[str] = set()
    for names in chunks(sorted(among), _NAMES_AT_ONCE):
        stored = TallyRow.job_type.in_(names) & (TallyRow.measure == Measure.STORED)
        query = TallyRow.select(TallyRow.job_type).where(stored).distinct()
        found.update(name for (name,) in database.execute(query))
    return found
