"""Reads jobs by id, and their ended attempts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jobstate_server.domain.job import Attempt, Job
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.store.chunks import chunks
from jobstate_server.store.models import AttemptRow, JobRow
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.rows import ATTEMPT_COLUMNS, JOB_COLUMNS, attempt_from, job_from
from jobstate_server.store.sizes import attempt_bytes

_IDS_AT_ONCE = 256
"""Jobs that one statement reads by id."""

_JOB_FIELDS = [getattr(JobRow, name) for name in JOB_COLUMNS]

_ATTEMPT_FIELDS = [getattr(AttemptRow, name) for name in ATTEMPT_COLUMNS]


class JobReads(ReadConnection):
    """Reads jobs by their ids."""

    def jobs(self, job_ids: Collection[str], reach: Reach = EVERYTHING) -> dict[str, Job]:
        found: dict[str, Job] = {}
        for some in chunks(list(job_ids), _IDS_AT_ONCE):
            for row in self._execute(*self._by_ids(some)):
                job = job_from(row)
                if reach is EVERYTHING or reach.admits(job.job_type, job.source_id):
                    found[job.id] = job
        return found

    def _by_ids(self, job_ids: Sequence[str]) -> tuple[str, list[str]]:
        """The statement that reads these jobs. Its text is built once per power of two; repeated ids fill it up."""
        size = 1 << (len(job_ids) - 1).bit_length()
        ids = [*job_ids, *[job_ids[0]] * (size - len(job_ids))]
        text = self._texts_by_ids.get(size)
        if text is None:
            query = JobRow.select(*_JOB_FIELDS).where(JobRow.id.in_(ids))
            text, _ = self._database.get_sql_context().sql(query).query()
            self._texts_by_ids[size] = text
        return text, ids

    def attempts(self, job_id: str, through: int, limit: int, bytes_max: int) -> list[Attempt]:
        query = AttemptRow.select(*_ATTEMPT_FIELDS).where(AttemptRow.job_id == job_id, AttemptRow.number <= through)
        found: list[Attempt] = []
        size = 0
        for row in self._rows(query.order_by(AttemptRow.number.desc()).limit(limit)):
            attempt = attempt_from(row)
            size += attempt_bytes(attempt)
            if found and size > bytes_max:
                break
            found.append(attempt)
        return found[::-1]
