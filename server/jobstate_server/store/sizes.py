"""Approximate encoded sizes of jobs and attempts. ``bytes_max`` of a page counts these."""

from __future__ import annotations

from jobstate_server.domain.job import Attempt, Job


def document_bytes(job: Job) -> int:
    """The approximate encoded size of a job."""
    size = 512 + len(job.metadata) + len(job.result) + len(job.progress_message) + len(job.cancel_reason)
    if job.labels is not None:
        size += len(job.labels)
    if job.last_error is not None:
        size += len(job.last_error.message) + len(job.last_error.details)
    return size


def attempt_bytes(attempt: Attempt) -> int:
    """The approximate encoded size of an attempt."""
    size = 256 + len(attempt.worker.encode())
    if attempt.error is not None:
        size += len(attempt.error.code.encode()) + len(attempt.error.message.encode()) + len(attempt.error.details)
    return size
