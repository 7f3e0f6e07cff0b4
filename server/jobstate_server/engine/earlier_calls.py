"""The calls with a request id that a batch knows of: those that are stored, and its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobstate_server.domain.batch_view import EarlierCall
from jobstate_server.domain.bulk import BulkProgress
from jobstate_server.domain.commands import Request
from jobstate_server.domain.errors import Overloaded, RequestIdReused
from jobstate_server.domain.job import Job
from jobstate_server.domain.waiting import is_running
from jobstate_server.store.records import ChangedJob, Changes, MovedBulkRun, StoredRequest

REQUESTS_FULL_DELAY_S = 5.0
"""When to repeat a call while there is no room for its request id. Room comes as request ids age, not as the queue
drains, so this is longer than other delays."""


class EarlierCalls:
    """Finds the call that another repeats. ``domain.batch_view.View`` documents the methods that the rules use."""

    def __init__(
        self,
        stored: Mapping[tuple[str, str], StoredRequest],
        room: int,
        jobs: Mapping[str, Job],
        rows: Mapping[str, ChangedJob],
    ) -> None:
        """
        Args:
            room: how many more request ids may be stored.
            jobs: the jobs of the batch, as they are now.
            rows: the jobs that it has created or changed.
        """
        self._requests = dict(stored)
        self._room = room
        self._jobs = jobs
        self._rows = rows

    def knows(self, key: tuple[str, str]) -> bool:
        """Whether a call with this request id was carried out."""
        return key in self._requests

    def learn(self, stored: Mapping[tuple[str, str], StoredRequest]) -> None:
        """Add what was loaded since."""
        for key, request in stored.items():
            self._requests.setdefault(key, request)

    def add(self, stored: StoredRequest) -> None:
        """Add a call of this batch."""
        self._requests[stored.request.key] = stored
        self._room -= 1

    def check_room(self, count: int) -> None:
        """Raise Overloaded unless ``count`` more request ids can be stored."""
        if count > self._room:
            # Without a stored request id, a repeat of the call would be carried out again.
            raise Overloaded(
                "as many request ids as request_ids_max allows were used within the last hour; repeat the call later,"
                " or without request_id",
                REQUESTS_FULL_DELAY_S,
            )

    def call(self, request: Request) -> EarlierCall | None:
        """As ``earlier_call``."""
        stored = self._requests.get(request.key)
        if stored is None:
            return None
        if stored.request != request:
            raise RequestIdReused(request.request_id)
        job = self._jobs.get(stored.job_id)
        if job is not None and not self._is_older(job, stored):
            job = None
        return EarlierCall(request.request_id, stored.job_id, job, stored.attempt, stored.is_existing)

    def bulk(self, request: Request) -> BulkProgress | None:
        """As ``bulk_progress``."""
        stored = self._requests.get(request.key)
        if stored is None:
            return None
        if stored.request != request:
            raise RequestIdReused(request.request_id)
        return stored.bulk

    def move_bulk(self, request: Request, after: BulkProgress, changes: Changes, now: int) -> None:
        """A bulk run goes on."""
        stored = self._requests[request.key]
        moved = self._requests[request.key] = stored._replace(bulk=after, time=now)
        if stored in changes.requests:
            # It began in this batch.
            changes.requests[changes.requests.index(stored)] = moved
            return
        earlier = changes.moved_bulk_runs.get(request.key)
        assert stored.bulk is not None
        before = stored.bulk if earlier is None else earlier.before
        changes.moved_bulk_runs[request.key] = MovedBulkRun(request, before, after, now)

    def acquire(self, request: Request) -> Sequence[Job] | None:
        """As ``earlier_acquire``."""
        stored = self._requests.get(request.key)
        if stored is None:
            return None
        if stored.request != request or stored.acquired is None:
            raise RequestIdReused(request.request_id)
        claimed = ((self._jobs.get(job_id), attempt) for job_id, attempt in stored.acquired)
        return [
            job
            for job, attempt in claimed
            if job is not None and job.attempt == attempt and is_running(job) and job.create_time <= stored.time
        ]

    def _is_older(self, job: Job, stored: StoredRequest) -> bool:
        """Whether the job existed when the call was made."""
        row = self._rows.get(job.id)
        first_event = None if row is None else row.first_event
        if first_event is not None or stored.created_event is not None:
            return first_event == stored.created_event
        if stored.create_sequence is None:
            return job.create_time <= stored.time
        return job.create_sequence == stored.create_sequence
