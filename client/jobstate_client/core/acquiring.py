"""How a worker asks for work, and what it knows of jobs that were cancelled. There is no I/O here."""

from __future__ import annotations

import logging
import time

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core import dispatch
from jobstate_client.core.calls import TRANSIENT, Backoff, Call
from jobstate_client.core.documents import seconds
from jobstate_client.core.handlers import check_count
from jobstate_client.core.heartbeats import HEARTBEATS_PER_THRESHOLD
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, Heartbeat, RunOptions
from jobstate_client.core.values import Job

log = logging.getLogger("jobstate_client")

ACQUIRE_WAIT_S = 30.0
"""How long a worker's Acquire waits at the server: half of the idle limit of common proxies."""

WAITED_S = 5.0
"""An Acquire that fails after so long has waited at the server: something between has ended it. The next one is made
soon, however often that happens."""

ACQUIRED_MAX = 1_000
"""Jobs asked for at once: the most that the server hands out."""

LEASE_S_DEFAULT, LEASE_S_MAX = 60.0, 3600.0
"""The server's lease for types that have none of their own, and the longest that it grants."""

CANCELLATIONS_MAX = 1_000
"""Cancelled jobs that are remembered: enough for those that are told of before the answer of the Acquire that claimed
them, which is on its way at the same time."""

RELEASE_REASON = "the worker stopped before it began"

STOP_REASON = "the worker stopped before the work had ended"

_LASTING_CODES = {"UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"}


class Quota:
    """How much a worker does before it stops by itself. No lock is taken: the owner holds one."""

    def __init__(self, max_jobs: int | None = None, *, until_empty: bool = False) -> None:
        """Without arguments: any amount.

        Raises:
            TypeError, ValueError: ``max_jobs`` is neither None nor a number of 1 or more.
        """
        self._left = None if max_jobs is None else check_count(max_jobs, "max_jobs")
        self.until_empty = until_empty
        """Whether to stop when no job is ready and none is being done."""

    @property
    def wait_s(self) -> float:
        """How long an Acquire waits at the server."""
        return 0.0 if self.until_empty else ACQUIRE_WAIT_S

    @property
    def is_used_up(self) -> bool:
        """Whether no more jobs are wanted."""
        return self._left == 0

    def of(self, free_hands: int) -> int:
        """How many jobs to ask for."""
        return free_hands if self._left is None else min(free_hands, self._left)

    def take(self, jobs: int) -> None:
        """So many have been acquired."""
        if self._left is not None:
            self._left = max(0, self._left - jobs)


def acquire_call(
    job_types: list[str], free_hands: int, options: RunOptions, wait_s: float = ACQUIRE_WAIT_S
) -> Call[tuple[Job, ...]]:
    """The call that asks for as many jobs as there are free hands. Repeated, it returns the same jobs."""
    return dispatch.acquire(
        job_types,
        max_jobs=min(free_hands, ACQUIRED_MAX),
        wait=wait_s,
        lease=_lease_s(options.heartbeat),
        worker=options.worker,
    )


def _lease_s(heartbeat: Heartbeat) -> float | None:
    """The lease to ask for: None is the job type's, to which the automatic interval of heartbeats adapts."""
    if heartbeat == "auto":
        return None
    if heartbeat is None:
        return LEASE_S_MAX
    return min(LEASE_S_MAX, max(LEASE_S_DEFAULT, HEARTBEATS_PER_THRESHOLD * seconds(heartbeat)))


def take_back_call(call: Call[tuple[Job, ...]]) -> Call[tuple[Job, ...]]:
    """The repeat that returns at once what an Acquire that was given up may have got."""
    request = pb.AcquireRequest()
    assert isinstance(call.request, pb.AcquireRequest)
    request.CopyFrom(call.request)
    request.ClearField("wait")
    return Call(call.rpc, request, call.decode, INTERRUPTED_PATIENCE_S)


class Pauses:
    """How long to wait before an Acquire is repeated. Raises the error if a repeat would not help."""

    def __init__(self) -> None:
        self._backoff = Backoff()
        self._asked_at = 0.0

    def asked(self) -> None:
        """The call is made now."""
        self._asked_at = time.monotonic()

    def after(self, error: e.JobStateError) -> float:
        """Seconds to wait after this error."""
        if not _may_pass(error):
            raise error
        if time.monotonic() - self._asked_at >= WAITED_S:
            self._backoff.reset()
        pause = self._backoff.next(error.retry_after.total_seconds() if error.retry_after else 0.0)
        log.warning("no work could be acquired (%s); trying again in %.1f s", error, pause)
        return pause


def _may_pass(error: e.JobStateError) -> bool:
    """Whether the same Acquire may succeed later."""
    return isinstance(error, TRANSIENT) and not (
        isinstance(error, e.TransportError) and error.code is not None and error.code.name in _LASTING_CODES
    )


class Cancellations:
    """The jobs that were cancelled of late. No lock is taken: the owner holds one."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        """By the id of the job, the version in which it was cancelled."""

    def add(self, job: Job) -> e.JobCancelled:
        """Note a job that an event says was cancelled. Returns the error for its run."""
        self._versions[job.id] = job.version
        if len(self._versions) > CANCELLATIONS_MAX:
            del self._versions[next(iter(self._versions))]
        return _cancelled(job.id)

    def of(self, job: Job) -> e.JobCancelled | None:
        """The error for a run of this job, if it was cancelled after it was handed out so.

        After cleanup has deleted a cancelled job, there may be another one with its id, in a later version.
        """
        return _cancelled(job.id) if self._versions.get(job.id, 0) > job.version else None


def given_back(job: Job) -> e.AttemptSuperseded:
    """The error of a run whose attempt a worker has given back while its work went on."""
    return e.AttemptSuperseded(
        f"attempt {job.attempt} of job {job.id} was given back, for its worker stopped",
        {"job_id": job.id, "attempt": str(job.attempt), "state": "PROCESSING"},
    )


def _cancelled(job_id: str) -> e.JobCancelled:
    return e.JobCancelled(
        f"job {job_id} was cancelled", {"job_id": job_id, "state": "CANCELLED", "trigger": "report", "allowed": ""}
    )
