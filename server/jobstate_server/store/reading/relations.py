"""Reads of needs and groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import Job
from jobstate_server.store.chunks import chunks
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.relation_models import MembersRow, NeedRow
from jobstate_server.store.relation_records import StoredGroup, StoredNeed
from jobstate_server.store.relation_rows import GROUP_COLUMNS, group_from, stored_need_from

_GROUPS_AT_ONCE = 256
"""Groups that one statement reads."""

_GROUP_FIELDS = [getattr(MembersRow, name) for name in GROUP_COLUMNS]
_NEEDS = NeedRow.select(NeedRow.parent_id, NeedRow.condition, NeedRow.outcome)


class RelationReads(ReadConnection):
    """The reads of ``Reader`` about needs and groups."""

    def needs(self, job: Job) -> list[StoredNeed]:
        if not job.needs_count:
            return []
        query = _NEEDS.where(NeedRow.child_key == job.create_sequence).order_by(NeedRow.position)
        return [stored_need_from(row) for row in self._rows(query)]

    def group_counts(self, jobs: Iterable[Job]) -> dict[str, Group]:
        ids = {job.create_sequence: job.id for job in jobs if job.group_depth}
        return {ids[key]: stored.group for key, stored in self.groups(ids).items()} if ids else {}

    def groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        found: dict[int, StoredGroup] = {}
        for some in chunks(list(keys), _GROUPS_AT_ONCE):
            query = MembersRow.select(*_GROUP_FIELDS).where(MembersRow.group_key.in_(some))
            found.update(group_from(row) for row in self._rows(query))
        return found
