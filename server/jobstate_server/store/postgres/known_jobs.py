"""The jobs that this replica wrote last, so that a transaction need not read them again.

Other replicas write to the same jobs. A transaction that locks a job is told whether its row is still the one that was
written here: PostgreSQL keeps in every row the number of the transaction that wrote it (``xmin``).
"""

from __future__ import annotations

from collections.abc import Iterable

from jobstate_server.domain.job import Job
from jobstate_server.store.job_cache import JobCache


class KnownJobs(JobCache):
    """The most recently changed jobs, each with the transaction that wrote its row.

    Forget all of them when there is a new connection. After a fail-over that loses commits, PostgreSQL gives the
    numbers of the lost transactions to others.
    """

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max)
        self._transactions: dict[str, int] = {}

    def keep_written(self, jobs: Iterable[Job], transaction: int) -> None:
        """Store jobs that this transaction wrote, after its commit."""
        for job in jobs:
            self.keep(job)
            if self.get(job.id) is job:
                self._transactions[job.id] = transaction

    def transactions(self, job_ids: Iterable[str]) -> list[int | None]:
        """The transactions that wrote the rows of these jobs. None for a job that is not known."""
        return [*map(self._transactions.get, job_ids)]

    def drop(self, job_id: str) -> None:
        super().drop(job_id)
        self._transactions.pop(job_id, None)

    def clear(self) -> None:
        super().clear()
        self._transactions.clear()
