"""What a worker logs of each attempt: one line with the job, its type, the outcome, and how long it took."""

from __future__ import annotations

import logging
import time

from jobstate_client.core.releasing import Release
from jobstate_client.core.values import Job

log = logging.getLogger("jobstate_client")


class AttemptLog:
    """The line of one attempt, which begins now."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._began_at = time.monotonic()

    def completed(self) -> None:
        """The server has accepted that the work succeeded."""
        log.info("%s completed after %s", self._attempt, self._took)

    def stopped(self, error: BaseException) -> None:
        """The handler raised what ends the program."""
        log.warning("%s raised %r after %s: the worker stops", self._attempt, error, self._took)

    def raised(self, error: BaseException, *, is_over: bool, has_completed: bool) -> None:
        """The attempt ended with an exception.

        Args:
            error: the exception.
            is_over: whether the server had ended the attempt before.
            has_completed: whether it has accepted all the same that the work succeeded.
        """
        if isinstance(error, Release):
            log.info("%s was released after %s: %s", self._attempt, self._took, error)
        elif is_over:
            log.info("%s is over after %s: %s", self._attempt, self._took, error)
        elif has_completed:
            log.warning("%s completed after %s, but a report was refused: %s", self._attempt, self._took, error)
        else:
            log.warning("%s failed after %s", self._attempt, self._took, exc_info=error)

    @property
    def _attempt(self) -> str:
        job = self._job
        return f"{job.job_type}: attempt {job.attempt} of job {job.id}"

    @property
    def _took(self) -> str:
        return f"{time.monotonic() - self._began_at:.3f} s"
