"""``with client.run(job) as run:``"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from jobstate_client.core.outbox import Line
from jobstate_client.core.running import Run, Terms, conclude
from jobstate_client.core.values import Job
from jobstate_client.sync.reporter import Reporter


class Running:
    """The context of a run: the attempt begins with the block and ends with it."""

    def __init__(self, start: Callable[[], Job], reporter: Reporter, terms: Terms) -> None:
        self._start = start
        self._reporter = reporter
        self._terms = terms
        self._entered: tuple[Run, Line, threading.Event] | None = None

    def __enter__(self) -> Run:
        job = self._start()
        line, ended = self._reporter.join(job, self._terms.heartbeat_s)
        run = Run(job, line, self._reporter.report)
        self._entered = run, line, ended
        return run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._entered is not None
        run, line, ended = self._entered
        conclusion = conclude(run, error, self._terms)
        try:
            delivery = next(conclusion)
            while True:
                delivery = conclusion.send(self._reporter.deliver(line, ended, delivery))
        except StopIteration:
            return
        finally:
            self._reporter.leave(line)
