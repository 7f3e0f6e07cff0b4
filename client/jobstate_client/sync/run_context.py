"""``with client.run(job) as run:``"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from jobstate_client.core.acquiring import given_back
from jobstate_client.core.attempt_reports import AttemptReports
from jobstate_client.core.documents import seconds
from jobstate_client.core.releasing import Release
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, Run, RunOptions
from jobstate_client.core.run_ending import finish_run, not_begun
from jobstate_client.core.values import Job
from jobstate_client.errors import JobCancelled

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client

log = logging.getLogger("jobstate_client")


class RunContext:
    """The context manager of a run: the attempt begins with the block and ends with it."""

    def __init__(
        self,
        client: Client,
        start: Callable[[], Job],
        options: RunOptions,
        may_have_started: Callable[[], bool] = lambda: True,
    ) -> None:
        """Start nothing yet.

        Args:
            client: whose run it is.
            start: claims the attempt; called again after an interrupt, it repeats the same calls.
            options: of the run.
            may_have_started: whether the attempt may have been claimed.
        """
        self._client = client
        self._start = start
        self._options = options
        self._may_have_started = may_have_started
        self._entered: tuple[Run, AttemptReports, threading.Event] | None = None

    def __enter__(self) -> Run:
        try:
            return self._begin()
        except Exception:
            raise
        except BaseException as interrupt:
            self._give_back(interrupt)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    @property
    def is_over(self) -> bool:
        """Whether the server has said that the attempt is over."""
        return self._entered is not None and self._entered[1].over is not None

    @property
    def has_completed(self) -> bool:
        """Whether the server has accepted that the work succeeded."""
        return self._entered is not None and self._entered[1].has_completed

    def cancel(self, error: JobCancelled) -> None:
        """The job has been cancelled: tell the run. May be called from another thread."""
        if self._entered is not None:
            self._client._report_sender.cancel(self._entered[1], error)

    def give_up(self, error: BaseException) -> None:
        """Report from another thread that the attempt has failed with this error, whatever its block is doing."""
        if self._entered is not None:
            self._finish(error, INTERRUPTED_PATIENCE_S)

    def release(self, reason: str) -> None:
        """Give the attempt back from another thread, unless its block has ended, and tell the block."""
        if self._entered is not None and self._entered[1].ending is None:
            run, reports, _ = self._entered
            self._finish(Release(reason=reason), INTERRUPTED_PATIENCE_S)
            reports.over = reports.over or given_back(run.job)
            reports.cancelled.set()

    def _begin(self) -> Run:
        job = self._start()
        sender = self._client._report_sender
        reports, ended = sender.add(job, self._client._heartbeat_s(job, self._options))
        run = Run(job, reports, sender.report, self._client._invoke_all)
        self._entered = run, reports, ended
        return run

    def _give_back(self, interrupt: BaseException) -> None:
        """Nobody will do what was claimed, or may have been: release it, so that another worker gets the job."""
        try:
            if self._entered is None:
                if not self._may_have_started():
                    return
                # The interrupted calls may have succeeded: repeated, they return the same answers.
                self._begin()
            self._end(not_begun(interrupt))
        except Exception as error:
            log.warning("a run was interrupted while it began, and its job may stay claimed: %s", error)

    def _end(self, error: BaseException | None) -> None:
        assert self._entered is not None
        run, reports, _ = self._entered
        patience_s = seconds(self._options.patience)
        try:
            self._finish(error, patience_s)
        except Exception:
            raise
        except BaseException as interrupt:
            log.warning("interrupted while reporting the end of job %s; interrupt again to give that up", run.id)
            try:
                self._finish(error, min(patience_s, INTERRUPTED_PATIENCE_S))
            except Exception as problem:
                interrupt.add_note(f"{run.id}: {problem}")
            raise
        finally:
            self._client._report_sender.remove(reports)

    def _finish(self, error: BaseException | None, patience_s: float) -> None:
        assert self._entered is not None
        run, reports, ended = self._entered
        deliveries = finish_run(run, error, self._options, patience_s)
        try:
            delivery = next(deliveries)
            while True:
                delivery = deliveries.send(self._client._report_sender.deliver(reports, ended, delivery))
        except StopIteration:
            return
