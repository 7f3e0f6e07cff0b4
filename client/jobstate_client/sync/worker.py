"""A worker: acquires jobs for its free hands, and runs their handler."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobstate_client.core.acquiring import STOP_REASON, Cancellations, Quota
from jobstate_client.core.attempt_log import AttemptLog
from jobstate_client.core.documents import seconds
from jobstate_client.core.handlers import Handlers, check_count, result_of
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, Run, RunOptions
from jobstate_client.core.run_ending import is_lost
from jobstate_client.core.states import EventType
from jobstate_client.core.values import Job, Span
from jobstate_client.core.watch_request import watch_request
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.errors import CursorExpired, CursorUnknown, JobStateError
from jobstate_client.sync.acquirer import Acquirer
from jobstate_client.sync.run_context import RunContext

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client
    from jobstate_client.sync.watch import Watch

log = logging.getLogger("jobstate_client")


class Worker:
    """Does the attempts of some job types. Make one with ``Client.worker``."""

    def __init__(self, client: Client, handlers: Handlers, concurrency: int, options: RunOptions) -> None:
        self._client = client
        self._handlers = handlers
        self._concurrency = check_count(concurrency, "concurrency")
        self._options = options
        self._quota = Quota()
        self._acquirer = Acquirer(client, handlers.job_types, options)
        self._jobs: deque[Job] = deque()
        """Acquired, and about to be begun: there is a free hand for each."""
        self._busy = 0
        """Hands that have a job."""
        self._cancellations = Cancellations()
        # Reentrant: a signal handler that interrupts this thread may call ``stop``.
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._freed = threading.Condition(lock)
        """Notified when a hand has become free: only the thread that acquires waits for that."""
        self._stopping = False
        self._deadline = math.inf
        """When ``run`` no longer waits for the running handlers."""
        self._ended = threading.Condition(lock)
        """Notified when a thread of the worker has ended, or the deadline has changed."""
        self._ended_threads = 0
        self._watch: Watch[Any] | None = None
        self._active: dict[tuple[str, int], RunContext] = {}
        """The running attempts, by job and number."""
        self._failure: BaseException | None = None
        """Why the worker stops, if not because of ``stop``."""
        self._is_interrupted = False

    def run(self, *, max_jobs: int | None = None, until_empty: bool = False) -> None:
        """Work until ``stop`` is called. Returns when the running handlers have ended.

        Args:
            max_jobs: stop after so many attempts.
            until_empty: stop once no job is ready and none is being done.

        Ctrl-C does the same as ``stop``. A second Ctrl-C gives up: the running attempts are failed, if the server
        answers within seconds, and KeyboardInterrupt is raised.

        Raises:
            JobStateError: the server refuses to hand out these jobs. The running handlers have ended by then.
            SystemExit, KeyboardInterrupt: a handler raised it. Its attempt has failed, and the others have ended.
            Exception: a thread of the worker has died. The running handlers have ended.
        """
        self._quota = Quota(max_jobs, until_empty=until_empty)
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
            threading.Thread(target=self._part, args=[self._serve], name=f"jobstate-worker-{number}", daemon=True)
            for number in range(self._concurrency)
        ]
        threads.append(threading.Thread(target=self._part, args=[self._acquire], name="jobstate-acquire", daemon=True))
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

    def stop(self, within: Span | None = None) -> None:
        """Begin no more jobs, and release those that were acquired and not begun.

        May be called from any thread, from a signal handler, and from the worker's handler; also again, with less time.

        Args:
            within: how long ``run`` waits for the running handlers. Then it releases what they have not ended, so that
                other workers get these jobs at once, and returns; the handlers go on until the program ends. None waits
                as long as they take.
        """
        within_s = math.inf if within is None else seconds(within, "within")
        with self._changed:
            self._stopping = True
            self._deadline = min(self._deadline, time.monotonic() + within_s)
            self._ended.notify_all()
            watch = self._watch
            self._changed.notify_all()
            self._freed.notify_all()
        self._acquirer.stop()
        if watch is not None:
            watch.close()

    def _interrupted(self) -> None:
        if self._is_interrupted:
            raise KeyboardInterrupt
        self._is_interrupted = True
        log.warning("interrupted: the worker finishes the running jobs; interrupt again to give them up")

    def _part(self, body: Callable[[], None]) -> None:
        try:
            body()
        finally:
            with self._ended:
                self._ended_threads += 1
                self._ended.notify_all()

    def _join(self, threads: list[threading.Thread]) -> None:
        """Wait until the threads have ended. After the deadline, give back what they do."""
        while True:
            try:
                if not self._have_ended(len(threads)):
                    self._end_running(lambda running: running.release(STOP_REASON))
            except KeyboardInterrupt:
                self._interrupted()
            else:
                return

    def _have_ended(self, threads: int) -> bool:
        """Wait for so many threads. False when the deadline has come."""
        with self._ended:
            while self._ended_threads < threads:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    return False
                self._ended.wait(None if left == math.inf else left)
        return True

    def _give_up(self) -> None:
        """Fail all running attempts at once."""
        error = KeyboardInterrupt("the worker was interrupted twice and gave up the job")
        self._end_running(lambda running: running.give_up(error))

    def _end_running(self, end: Callable[[RunContext], None]) -> None:
        """Report the ends of all running attempts at once, and wait a few seconds for the answers."""
        with self._changed:
            active = list(self._active.values())
        threads = [threading.Thread(target=end, args=[running], daemon=True) for running in active]
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
        """Watch for jobs that are cancelled until the worker stops, or the watch cannot be resumed."""
        request = watch_request(job_types=self._handlers.job_types, types=[EventType.CANCELLED])
        with self._client._open_watch(WatchSession(request, connect_s=self._client._timeout_s)) as watch:
            with self._changed:
                self._watch = watch
                if self._stopping:
                    return
            try:
                for event in watch:
                    self._cancelled(event.job)
            except (CursorExpired, CursorUnknown):
                log.warning(
                    "the watch of a worker could not be resumed; its heartbeats tell what was cancelled meanwhile"
                )

    def _cancelled(self, job: Job) -> None:
        with self._changed:
            error = self._cancellations.add(job)
            running = self._active.get((job.id, job.attempt))
        if running is not None:
            running.cancel(error)

    def _acquire(self) -> None:
        """The body of the thread that acquires jobs. In the end it releases those that nobody has begun."""
        try:
            while free_hands := self._free_hands():
                jobs = self._acquirer.acquire(free_hands, self._quota.wait_s)
                with self._changed:
                    self._quota.take(len(jobs))
                    self._jobs.extend(jobs)
                    self._changed.notify(len(jobs))
                if self._quota.until_empty and not jobs and not self._hand_is_freed():
                    break
            self.stop()
        except JobStateError as error:
            log.warning("no more work can be acquired, and the worker stops: %s", error)
            self._fail(error)
        except BaseException as error:
            log.exception("a thread of the worker has died; the worker stops")
            self._fail(error)
        finally:
            # By now the worker stops, and nobody takes any of them.
            with self._changed:
                jobs = tuple(self._jobs)
                self._jobs.clear()
            self._acquirer.release(jobs)

    def _free_hands(self) -> int:
        """How many more jobs to begin, once a hand is free; 0 when the worker stops, or has begun all that it is to."""

        def free() -> int:
            return self._concurrency - self._busy - len(self._jobs)

        with self._changed:
            if self._quota.is_used_up:
                # Not before the last has ended: until then the watch tells of jobs that are cancelled.
                self._freed.wait_for(lambda: self._stopping or free() == self._concurrency)
                return 0
            self._freed.wait_for(lambda: self._stopping or free() > 0)
            return 0 if self._stopping else self._quota.of(free())

    def _hand_is_freed(self) -> bool:
        """Nothing is ready: wait until one more hand is free. False if nothing is being done either."""
        with self._changed:
            doing = self._busy + len(self._jobs)
            if doing:
                self._freed.wait_for(lambda: self._stopping or self._busy + len(self._jobs) < doing)
            return doing > 0

    def _serve(self) -> None:
        """The body of a thread. If it dies while the worker runs, the worker stops with its error."""
        try:
            while (job := self._next()) is not None:
                try:
                    self._do(job)
                finally:
                    with self._changed:
                        self._busy -= 1
                        self._freed.notify_all()
        except BaseException as error:
            log.exception("a thread of the worker has died; the worker stops")
            self._fail(error)

    def _next(self) -> Job | None:
        """The next job to begin; None when the worker stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._jobs)
            if self._stopping:
                return None
            self._busy += 1
            return self._jobs.popleft()

    def _call(self, run: Run) -> Any:
        try:
            return self._handlers.of(run.job.job_type)(run)
        except (SystemExit, KeyboardInterrupt):
            # Before the failure is reported, so that no other thread starts a job meanwhile.
            self.stop()
            raise

    def _do(self, job: Job) -> None:
        running, key = RunContext(self._client, lambda: job, self._options), (job.id, job.attempt)
        attempt = AttemptLog(job)
        with self._changed:
            self._active[key] = running
        try:
            with running as run:
                with self._changed:
                    cancelled = self._cancellations.of(job)
                if cancelled is not None:
                    running.cancel(cancelled)
                    run.check()
                result = result_of(self._call(run))
                if result is not None:
                    run.result = result
        except (SystemExit, KeyboardInterrupt) as error:
            attempt.stopped(error)
            self._fail(error)
        except BaseException as error:
            attempt.raised(error, is_over=is_lost(error) or running.is_over, has_completed=running.has_completed)
        else:
            attempt.completed()
        finally:
            with self._changed:
                del self._active[key]
