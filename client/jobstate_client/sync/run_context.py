"""``with client.run(job) as run:``"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from jobstate_client.core.documents import seconds
from jobstate_client.core.report_queue import AttemptReports
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, Run, RunOptions, finish_run, not_begun
from jobstate_client.core.values import Job

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client

log = logging.getLogger("jobstate_client")


class RunContext:
    """The context of a run: the attempt begins with the block and ends with it."""

    def __init__(
        self,
        client: Client,
        start: Callable[[], Job],
        terms: RunOptions,
        has_started: Callable[[], bool] = lambda: True,
    ) -> None:
        """Begin nothing yet.

        Args:
            client: whose run it is.
            start: claims the attempt; called again after an interrupt, it repeats the same calls.
            terms: how the run is held.
            has_started: whether the attempt may have been claimed.
        """
        self._client = client
        self._start = start
        self._terms = terms
        self._has_started = has_started
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

    def give_up(self, error: BaseException) -> None:
        """Tell from another thread that the attempt has failed with this, whatever its body is doing."""
        if self._entered is not None:
            self._finish(error, INTERRUPTED_PATIENCE_S)

    def _begin(self) -> Run:
        job = self._start()
        reporter = self._client._reporter
        line, ended = reporter.join(job, self._client._heartbeat_s(job, self._terms))
        run = Run(job, line, reporter.report)
        self._entered = run, line, ended
        return run

    def _give_back(self, interrupt: BaseException) -> None:
        """What was claimed, or may have been, nobody will do: that is told, so that another does."""
        try:
            if self._entered is None:
                if not self._has_started():
                    return
                # The same calls again tell what the interrupted ones did.
                self._begin()
            self._end(not_begun(interrupt))
        except Exception as error:
            log.warning("a run was interrupted while it began, and its job may rest with it: %s", error)

    def _end(self, error: BaseException | None) -> None:
        assert self._entered is not None
        run, line, _ = self._entered
        patience_s = seconds(self._terms.patience)
        try:
            self._finish(error, patience_s)
        except Exception:
            raise
        except BaseException as interrupt:
            log.warning("interrupted while job %s was told how it ended; interrupt again to give that up", run.id)
            try:
                self._finish(error, min(patience_s, INTERRUPTED_PATIENCE_S))
            except Exception as trouble:
                interrupt.add_note(f"{run.id}: {trouble}")
            raise
        finally:
            self._client._reporter.leave(line)

    def _finish(self, error: BaseException | None, patience_s: float) -> None:
        assert self._entered is not None
        run, line, ended = self._entered
        conclusion = finish_run(run, error, self._terms, patience_s)
        try:
            delivery = next(conclusion)
            while True:
                delivery = conclusion.send(self._client._reporter.deliver(line, ended, delivery))
        except StopIteration:
            return
