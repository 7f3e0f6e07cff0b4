"""A worker: follows what there is to do, starts what it can get, and does it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from jobstate_client.core.calls import Backoff
from jobstate_client.core.handlers import check_worker, result_of
from jobstate_client.core.operations import new_request_id
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, TRANSIENT, Run, RunOptions, is_lost
from jobstate_client.core.values import Job, Synced
from jobstate_client.core.waiting_jobs import LISTED, PAGE, WATCHED, WaitingJobs
from jobstate_client.core.watch_session import WatchSession, watch_request
from jobstate_client.errors import CursorExpired, CursorUnknown, JobStateError
from jobstate_client.sync.run_context import RunContext

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client
    from jobstate_client.sync.watch import Watch

log = logging.getLogger("jobstate_client")


class Worker:
    """Does the attempts of some job types. Make one with ``Client.worker``."""

    def __init__(
        self, client: Client, handler: Callable[[Run], Any], job_types: list[str], concurrency: int, terms: RunOptions
    ) -> None:
        check_worker(handler, job_types, concurrency, is_async=False)
        self._client = client
        self._handler = handler
        self._job_types = job_types
        self._concurrency = concurrency
        self._terms = terms
        self._backlog = WaitingJobs()
        # Reentrant: ``stop`` may be called by a signal handler that interrupts this very thread.
        self._changed = threading.Condition(threading.RLock())
        self._stopping = False
        self._is_listing = False
        self._watch: Watch[Any] | None = None
        self._active: dict[RunContext, None] = {}
        """The runs under way."""
        self._failure: BaseException | None = None
        """Why the worker stops, other than by ``stop``."""
        self._is_interrupted = False

    def run(self) -> None:
        """Work until ``stop`` is called, then return once the handlers under way have ended.

        Ctrl-C does the same as ``stop``. A second one gives up: the attempts under way are failed, as far as the
        server can be told within seconds, and KeyboardInterrupt is raised.

        Raises:
            JobStateError: the watch cannot go on. The handlers under way have ended then too.
            SystemExit, KeyboardInterrupt: a handler raised it. Its attempt has failed, and the others have ended.
            Exception: a thread of the worker has died. The handlers under way have ended.
        """
        try:
            self._run()
        except KeyboardInterrupt as interrupt:
            # Wherever it struck: the second Ctrl-C.
            if interrupt is not self._failure:
                self._give_up()
            raise

    def _run(self) -> None:
        # Daemons, so that the program can end when the worker has given up.
        threads = [
            threading.Thread(target=self._serve, name=f"jobstate-worker-{number}", daemon=True)
            for number in range(self._concurrency)
        ]
        begun: list[threading.Thread] = []
        try:
            for thread in threads:
                thread.start()
                begun.append(thread)
            while not self._stopping:
                self._follow()
        except KeyboardInterrupt:
            self._interrupted()
        finally:
            self.stop()
            self._join(begun)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Start nothing more. May be called from anywhere, also from a signal handler and from a handler."""
        with self._changed:
            self._stopping = True
            watch = self._watch
            self._changed.notify_all()
        if watch is not None:
            watch.close()

    def _interrupted(self) -> None:
        if self._is_interrupted:
            raise KeyboardInterrupt
        self._is_interrupted = True
        log.warning("interrupted: the worker ends what it does; interrupt again to give that up")

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive():
                try:
                    thread.join()
                except KeyboardInterrupt:
                    self._interrupted()

    def _give_up(self) -> None:
        """Fail the attempts under way, all at once, and wait for that for a few seconds."""
        with self._changed:
            active = list(self._active)
        error = KeyboardInterrupt("the worker was interrupted twice, and gave up what it did")
        threads = [threading.Thread(target=running.give_up, args=[error], daemon=True) for running in active]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + INTERRUPTED_PATIENCE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _fail(self, error: BaseException) -> None:
        """Stop, and raise this once the others have ended."""
        with self._changed:
            if self._failure is None:
                self._failure = error
        self.stop()

    def _follow(self) -> None:
        """Watch and list until that breaks off for good."""
        request = watch_request(job_types=self._job_types, types=WATCHED)
        with self._client._open_watch(
            WatchSession(request, connect_s=self._client._timeout_s, emit_synced=True)
        ) as watch:
            with self._changed:
                self._watch = watch
                if self._stopping:
                    return
            try:
                for item in watch:
                    if isinstance(item, Synced):
                        # What is there already. The watch is in place, so what comes meanwhile is told as well.
                        self._list()
                    else:
                        with self._changed:
                            self._backlog.take_in(item)
                            self._changed.notify()
            except (CursorExpired, CursorUnknown):
                log.warning("a worker was away for too long to go on where it was; it lists the jobs anew")

    def _list(self) -> None:
        with self._changed:
            self._backlog.listing()
        try:
            jobs = self._client.list(states=LISTED, job_types=self._job_types, oldest_first=True, page_size=PAGE)
            # A page at a time, so that the first start is the oldest's: jobs are listed as they were created, and a
            # retry became ready later than that.
            while page := list(islice(jobs, PAGE)):
                with self._changed:
                    has_room = all(map(self._backlog.take_in, page))
                    self._changed.notify_all()
                    if self._stopping or not has_room:
                        break
        except TRANSIENT as error:
            log.warning("the jobs could not be listed (%s); again soon", error)
            with self._changed:
                self._backlog.listing_failed()

    def _serve(self) -> None:
        """What a thread does. It never ends in silence while the worker runs."""
        try:
            while (job_id := self._next()) is not None:
                job = self._start(job_id)
                with self._changed:
                    self._backlog.tried(won=job is not None)
                if job is not None:
                    self._do(job)
        except BaseException as error:
            log.exception("a thread of the worker has died: the worker stops")
            self._fail(error)

    def _next(self) -> str | None:
        """A job to try; None when it is time to stop."""
        backoff = Backoff()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._backlog or self._may_list)
                if self._stopping:
                    return None
                if self._backlog:
                    return self._backlog.choose()
                self._is_listing = True
            self._list()
            with self._changed:
                self._is_listing = False
                self._changed.wait_for(lambda: self._stopping or self._backlog, backoff.next())
                self._changed.notify_all()

    @property
    def _may_list(self) -> bool:
        return self._backlog.needs_listing and not self._is_listing

    def _start(self, job_id: str) -> Job | None:
        """Start it, if it is still free. While the outcome is unknown the same start is repeated."""
        backoff, request_id = Backoff(), new_request_id()
        while True:
            try:
                return self._client.start(job_id, worker=self._terms.worker, request_id=request_id)
            except TRANSIENT as error:
                wait = backoff.next()
                log.warning("job %s could not be started (%s); again in %.1f s", job_id, error, wait)
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopping, wait):
                        return None
            except JobStateError as error:
                log.log(logging.DEBUG if is_lost(error) else logging.WARNING, "job %s: not started: %s", job_id, error)
                return None

    def _call(self, run: Run) -> Any:
        try:
            return self._handler(run)
        except (SystemExit, KeyboardInterrupt):
            # Before the server is told, so that no other thread begins something meanwhile.
            self.stop()
            raise

    def _do(self, job: Job) -> None:
        running = RunContext(self._client, lambda: job, self._terms)
        with self._changed:
            self._active[running] = None
        try:
            with running as run:
                result = result_of(self._call(run))
                if result is not None:
                    run.result = result
        except (SystemExit, KeyboardInterrupt) as error:
            log.warning("attempt %d of job %s raised %r: the worker stops", job.attempt, job.id, error)
            self._fail(error)
        except BaseException as error:
            if is_lost(error):
                log.info("attempt %d of job %s is over: %s", job.attempt, job.id, error)
            else:
                log.warning("attempt %d of job %s failed", job.attempt, job.id, exc_info=error)
        finally:
            with self._changed:
                del self._active[running]
