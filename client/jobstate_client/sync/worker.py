"""A worker: watches for jobs that wait, starts those that it can get, and runs their handler."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from jobstate_client.core.calls import TRANSIENT, Backoff
from jobstate_client.core.handlers import check_worker, result_of
from jobstate_client.core.operations import new_request_id
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, Run, RunOptions
from jobstate_client.core.run_ending import is_lost
from jobstate_client.core.values import Job, Synced
from jobstate_client.core.waiting_jobs import LISTED, PAGE_SIZE, WATCHED, WaitingJobs
from jobstate_client.core.watch_request import watch_request
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.errors import CursorExpired, CursorUnknown, JobStateError
from jobstate_client.sync.run_context import RunContext

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client
    from jobstate_client.sync.watch import Watch

log = logging.getLogger("jobstate_client")


class Worker:
    """Does the attempts of some job types. Make one with ``Client.worker``."""

    def __init__(
        self, client: Client, handler: Callable[[Run], Any], job_types: list[str], concurrency: int, options: RunOptions
    ) -> None:
        check_worker(handler, job_types, concurrency, is_async=False)
        self._client = client
        self._handler = handler
        self._job_types = job_types
        self._concurrency = concurrency
        self._options = options
        self._waiting_jobs = WaitingJobs()
        # Reentrant: a signal handler that interrupts this thread may call ``stop``.
        self._changed = threading.Condition(threading.RLock())
        self._stopping = False
        self._is_listing = False
        self._watch: Watch[Any] | None = None
        self._active: dict[RunContext, None] = {}
        """The running attempts."""
        self._failure: BaseException | None = None
        """Why the worker stops, if not because of ``stop``."""
        self._is_interrupted = False

    def run(self) -> None:
        """Work until ``stop`` is called. Returns when the running handlers have ended.

        Ctrl-C does the same as ``stop``. A second Ctrl-C gives up: the running attempts are failed, if the server
        answers within seconds, and KeyboardInterrupt is raised.

        Raises:
            JobStateError: the watch cannot be resumed. The running handlers have ended by then.
            SystemExit, KeyboardInterrupt: a handler raised it. Its attempt has failed, and the others have ended.
            Exception: a thread of the worker has died. The running handlers have ended.
        """
        try:
            self._run()
        except KeyboardInterrupt as interrupt:
            # The second Ctrl-C, wherever it came.
            if interrupt is not self._failure:
                self.stop()
                self._give_up()
            raise

    def _run(self) -> None:
        # Daemon threads, so that the program can end after the worker gave up.
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
            # Another one may come before this returns. The running jobs are then not waited for.
            self._interrupted()
        except BaseException:
            self.stop()
            self._join(begun)
            raise
        self.stop()
        self._join(begun)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Start no more jobs. May be called from any thread, from a signal handler, and from the worker's handler."""
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
        log.warning("interrupted: the worker finishes the running jobs; interrupt again to give them up")

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive():
                try:
                    thread.join()
                except KeyboardInterrupt:
                    self._interrupted()

    def _give_up(self) -> None:
        """Fail all running attempts at once, and wait a few seconds for the answers."""
        with self._changed:
            active = list(self._active)
        error = KeyboardInterrupt("the worker was interrupted twice and gave up the job")
        threads = [threading.Thread(target=running.give_up, args=[error], daemon=True) for running in active]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + INTERRUPTED_PATIENCE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _fail(self, error: BaseException) -> None:
        """Stop, and let ``run`` raise this error after the others have ended."""
        with self._changed:
            if self._failure is None:
                self._failure = error
        self.stop()

    def _follow(self) -> None:
        """Watch and list until the worker stops, or the watch cannot be resumed."""
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
                        # List the jobs that exist already. The watch is open, so no change is missed meanwhile.
                        self._list()
                    else:
                        with self._changed:
                            self._waiting_jobs.update(item)
                            self._changed.notify()
            except (CursorExpired, CursorUnknown):
                log.warning("the watch of a worker could not be resumed; listing the jobs again")

    def _list(self) -> None:
        with self._changed:
            self._waiting_jobs.listing_started()
        try:
            jobs = self._client.list(states=LISTED, job_types=self._job_types, oldest_first=True, page_size=PAGE_SIZE)
            # A whole page at a time, so that the oldest is started first: jobs are listed by creation, and a retry
            # became ready later than that.
            while page := list(islice(jobs, PAGE_SIZE)):
                with self._changed:
                    has_room = all(map(self._waiting_jobs.update, page))
                    self._changed.notify_all()
                    if self._stopping or not has_room:
                        break
        except TRANSIENT as error:
            log.warning("the jobs could not be listed (%s); trying again soon", error)
            with self._changed:
                self._waiting_jobs.listing_failed()

    def _serve(self) -> None:
        """The body of a thread. If it dies while the worker runs, the worker stops with its error."""
        try:
            while (job_id := self._next()) is not None:
                job = self._start(job_id)
                with self._changed:
                    self._waiting_jobs.start_tried(won=job is not None)
                if job is not None:
                    self._do(job)
        except BaseException as error:
            log.exception("a thread of the worker has died; the worker stops")
            self._fail(error)

    def _next(self) -> str | None:
        """The next job to try; None when the worker stops."""
        backoff = Backoff()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting_jobs or self._may_list)
                if self._stopping:
                    return None
                if self._waiting_jobs:
                    return self._waiting_jobs.pop()
                self._is_listing = True
            self._list()
            with self._changed:
                self._is_listing = False
                self._changed.wait_for(lambda: self._stopping or self._waiting_jobs, backoff.next())
                self._changed.notify_all()

    @property
    def _may_list(self) -> bool:
        return self._waiting_jobs.needs_listing and not self._is_listing

    def _start(self, job_id: str) -> Job | None:
        """Start the job if it still waits. While the outcome is unknown, the same call is repeated."""
        backoff, request_id = Backoff(), new_request_id()
        while True:
            try:
                return self._client.start(job_id, worker=self._options.worker, request_id=request_id)
            except TRANSIENT as error:
                wait = backoff.next()
                log.warning("job %s could not be started (%s); trying again in %.1f s", job_id, error, wait)
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
            # Before the failure is reported, so that no other thread starts a job meanwhile.
            self.stop()
            raise

    def _do(self, job: Job) -> None:
        running = RunContext(self._client, lambda: job, self._options)
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
