"""Reads jobs by id, and their ended attempts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from jobstate_server.domain.job import Attempt, Job
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.store.chunks import chunks
from jobstate_server.store.models import AttemptRow, JobRow
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.rows import ATTEMPT_COLUMNS, attempt_from, job_from
from jobstate_server.store.sizes import attempt_bytes

_JOBS_AT_ONCE = 256
"""Jobs that one statement reads by id."""

_ATTEMPT_FIELDS = [getattr(AttemptRow, name) for name in ATTEMPT_COLUMNS]


class JobReads(ReadConnection):
    """Reads jobs by their ids and keys."""

    whole_jobs: str
    """The statement that reads all jobs with their documents, as ``rows.job_from`` wants them."""

    def jobs(self, job_ids: Collection[str], reach: Reach = EVERYTHING) -> dict[str, Job]:
        found: dict[str, Job] = {}
        for some in chunks(list(job_ids), _JOBS_AT_ONCE):
            for row in self._execute(*self._jobs_where("id", some)):
                job = job_from(row)
                if reach is EVERYTHING or reach.admits(job.job_type, job.source_id):
                    found[job.id] = job
        return found

    def _jobs_by_key(self, keys: Sequence[int]) -> dict[int, Job]:
        """The jobs with these ``create_sequence``."""
        rows = self._execute(*self._jobs_where("create_sequence", keys))
        return {job.create_sequence: job for job in map(job_from, rows)}

    def _jobs_where(self, column: str, values: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """The statement that reads these jobs. Its text is built once per power of two; repeated values fill it up."""
        size = 1 << (len(values) - 1).bit_length()
        text = self._texts.get((column, size))
        if text is None:
            marks = ", ".join([self._database.param] * size)
            text = self._texts[column, size] = f"{self.whole_jobs} WHERE job.{column} IN ({marks})"
        return text, [*values, *[values[0]] * (size - len(values))]

    def attempts(self, job_id: str, through: int, limit: int, bytes_max: int) -> list[Attempt]:
        key = JobRow.select(JobRow.create_sequence).where(JobRow.id == job_id)
        query = AttemptRow.select(*_ATTEMPT_FIELDS).where(
            AttemptRow.create_sequence == key, AttemptRow.number <= through
        )
        found: list[Attempt] = []
        size = 0
        for row in self._rows(query.order_by(AttemptRow.number.desc()).limit(limit)):
            attempt = attempt_from((job_id, *row))
            size += attempt_bytes(attempt)
            if found and size > bytes_max:
                break
            found.append(attempt)
        return found[::-1]
