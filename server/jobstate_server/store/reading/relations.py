"""Reads of needs and groups. Before migration 0012 none can be stored."""

from __future__ import annotations

from collections.abc import Collection

from jobstate_server.domain.job import Job
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.relation_records import StoredGroup, StoredNeed


class RelationReads(ReadConnection):
    """The reads of ``Reader`` about needs and groups."""

    def needs(self, job: Job) -> list[StoredNeed]:
        del job
        return []

    def groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        del keys
        return {}
