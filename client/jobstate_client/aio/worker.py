"""A worker: acquires jobs for its free hands, and runs their handler."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from jobstate_client.aio.acquirer import AsyncAcquirer
from jobstate_client.aio.interrupts import stopping_on_interrupt
from jobstate_client.aio.run_context import AsyncRunContext
from jobstate_client.core.acquiring import STOP_REASON, Cancellations, Quota
from jobstate_client.core.attempt_log import AttemptLog
from jobstate_client.core.documents import seconds
from jobstate_client.core.handlers import Handlers, awaited, check_count, result_of
from jobstate_client.core.run import Run, RunOptions
from jobstate_client.core.run_ending import is_lost
from jobstate_client.core.states import EventType
from jobstate_client.core.values import Job, Span
from jobstate_client.core.watch_request import watch_request
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.errors import CursorExpired, CursorUnknown, JobStateError

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient
    from jobstate_client.aio.watch import AsyncWatch

log = logging.getLogger("jobstate_client")


class AsyncWorker:
    """Does the attempts of some job types. Make one with ``AsyncClient.worker``."""

    def __init__(
        self,
        client: AsyncClient,
        handlers: Handlers,
        concurrency: int,
        options: RunOptions,
    ) -> None:
        self._client = client
        self._handlers = handlers
        self._concurrency = check_count(concurrency, "concurrency")
        self._options = options
        self._quota = Quota()
        self._acquirer = AsyncAcquirer(client, handlers.job_types, options)
        self._jobs: deque[Job] = deque()
        """Acquired, and about to be begun: there is a free hand for each."""
        self._busy = 0
        """Hands that have a job."""
        self._cancellations = Cancellations()
        self._active: dict[tuple[str, int], tuple[AsyncRunContext, asyncio.Task[None]]] = {}
        """The running attempts and their tasks, by job and number."""
        self._news = asyncio.Event()
        self._freed = asyncio.Event()
        """Set when a hand has become free: only the task that acquires waits for that."""
        self._stopping = asyncio.Event()
        self._watch: AsyncWatch[Any] | None = None
        self._failure: BaseException | None = None
        """Why the worker stops, if not because of ``stop``."""

    async def run(self, *, max_jobs: int | None = None, until_empty: bool = False) -> None:
        """Work until ``stop`` is called. Returns when the running handlers have ended.

        Args:
            max_jobs: stop after so many attempts.
            until_empty: stop once no job is ready and none is being done.

        The first Ctrl-C does the same as ``stop``, unless the program has its own handler for that signal. A second
        one cancels the event loop's main task, as usual. A worker that is cancelled cancels its handlers, and waits
        until their failures have been reported.

        Raises:
            JobStateError: the server refuses to hand out these jobs. The running handlers have ended by then.
            SystemExit, KeyboardInterrupt: a handler raised it. Its attempt has failed, and the others have ended.
            Exception: a task of the worker has died. The running handlers have ended.
        """
        self._quota = Quota(max_jobs, until_empty=until_empty)
        slots = [
            asyncio.create_task(self._serve(), name=f"jobstate-worker-{number}") for number in range(self._concurrency)
        ]
        tasks = [*slots, asyncio.create_task(self._acquire(), name="jobstate-acquire")]
        with stopping_on_interrupt(self.stop):
            try:
                try:
                    while not self._stopping.is_set():
                        await self._follow()
                finally:
                    self.stop()
                await asyncio.wait(tasks)
            except asyncio.CancelledError:
                for slot in slots:
                    slot.cancel()
                raise
            finally:
                await asyncio.wait(tasks)
        if self._failure is not None:
            raise self._failure

    def stop(self, within: Span | None = None) -> None:
        """Begin no more jobs, and release those that were acquired and not begun.

        May be called from anywhere on the event loop, also from a handler; also again, with less time.

        Args:
            within: how long the running handlers may take. Then their tasks are cancelled and their attempts released,
                so that other workers get these jobs at once. None is as long as they take.
        """
        if within is not None:
            within_s = seconds(within, "within")
            if self._active:
                asyncio.get_running_loop().call_later(within_s, self._release_running)
        self._stopping.set()
        self._news.set()
        self._freed.set()
        self._acquirer.stop()
        if self._watch is not None:
            self._watch.close()

    def _release_running(self) -> None:
        for running, task in tuple(self._active.values()):
            if running.release(STOP_REASON):
                task.cancel()

    def _fail(self, error: BaseException) -> None:
        """Stop, and let ``run`` raise this error after the others have ended."""
        if self._failure is None:
            self._failure = error
        self.stop()

    async def _follow(self) -> None:
        """Watch for jobs that are cancelled until the worker stops, or the watch cannot be resumed."""
        request = watch_request(job_types=self._handlers.job_types, types=[EventType.CANCELLED])
        async with self._client._open_watch(WatchSession(request, connect_s=self._client._timeout_s)) as watch:
            self._watch = watch
            if self._stopping.is_set():
                return
            try:
                async for event in watch:
                    self._cancelled(event.job)
            except (CursorExpired, CursorUnknown):
                log.warning(
                    "the watch of a worker could not be resumed; its heartbeats tell what was cancelled meanwhile"
                )

    def _cancelled(self, job: Job) -> None:
        error = self._cancellations.add(job)
        if (job.id, job.attempt) in self._active:
            self._active[job.id, job.attempt][0].cancel(error)

    async def _acquire(self) -> None:
        """The body of the task that acquires jobs. In the end it releases those that nobody has begun."""
        try:
            while free_hands := await self._free_hands():
                jobs = await self._acquirer.acquire(free_hands, self._quota.wait_s)
                self._quota.take(len(jobs))
                self._jobs.extend(jobs)
                self._news.set()
                if self._quota.until_empty and not jobs and not await self._hand_is_freed():
                    break
            self.stop()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                self._fail(RuntimeError("a task of the worker was cancelled"))
            raise
        except JobStateError as error:
            log.warning("no more work can be acquired, and the worker stops: %s", error)
            self._fail(error)
        except BaseException as error:
            log.exception("a task of the worker has died; the worker stops")
            self._fail(error)
        finally:
            # By now the worker stops, and nobody takes any of them.
            jobs = tuple(self._jobs)
            self._jobs.clear()
            await self._acquirer.release(jobs)

    async def _free_hands(self) -> int:
        """How many more jobs to begin, once a hand is free; 0 when the worker stops, or has begun all that it is to."""
        while not self._stopping.is_set():
            free = self._concurrency - self._busy - len(self._jobs)
            if self._quota.is_used_up and free == self._concurrency:
                # Not before the last has ended: until then the watch tells of jobs that are cancelled.
                return 0
            if free > 0 and not self._quota.is_used_up:
                return self._quota.of(free)
            self._freed.clear()
            await self._freed.wait()
        return 0

    async def _hand_is_freed(self) -> bool:
        """Nothing is ready: wait until one more hand is free. False if nothing is being done either."""
        doing = self._busy + len(self._jobs)
        while doing and self._busy + len(self._jobs) >= doing and not self._stopping.is_set():
            self._freed.clear()
            await self._freed.wait()
        return doing > 0

    async def _serve(self) -> None:
        """The body of a task. If it dies while the worker runs, the worker stops with its error."""
        try:
            while (job := await self._next()) is not None:
                try:
                    await self._do(job)
                finally:
                    self._busy -= 1
                    self._freed.set()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                self._fail(RuntimeError("a task of the worker was cancelled"))
            raise
        except BaseException as error:
            log.exception("a task of the worker has died; the worker stops")
            self._fail(error)

    async def _next(self) -> Job | None:
        """The next job to begin; None when the worker stops."""
        while not self._stopping.is_set():
            if self._jobs:
                self._busy += 1
                return self._jobs.popleft()
            self._news.clear()
            await self._news.wait()
        return None

    async def _do(self, job: Job) -> None:
        """Run an attempt in its own task: cancelling that ends only the attempt."""
        task = asyncio.create_task(self._attempt(job), name=f"jobstate-run-{job.id}")
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if not task.cancelled() and (failure := task.exception()) is not None:
            raise failure

    async def _attempt(self, job: Job) -> None:
        async def claimed() -> Job:
            return job

        running, key = AsyncRunContext(self._client, claimed, self._options), (job.id, job.attempt)
        attempt = AttemptLog(job)
        task: Any = asyncio.current_task()
        self._active[key] = running, task
        try:
            async with running as run:
                if (cancelled := self._cancellations.of(job)) is not None:
                    running.cancel(cancelled)
                    run.check()
                running.on_over(task.cancel)
                result = result_of(await self._call(run))
                if result is not None:
                    run.result = result
        except (SystemExit, KeyboardInterrupt) as error:
            attempt.stopped(error)
            self._fail(error)
        except BaseException as error:
            if not running.has_begun and not isinstance(error, asyncio.CancelledError):
                # Not raised by the handler.
                raise
            if isinstance(error, asyncio.CancelledError):
                error = running.over or error
            attempt.raised(error, is_over=is_lost(error) or is_lost(running.over), has_completed=running.has_completed)
        else:
            attempt.completed()
        finally:
            del self._active[key]

    async def _call(self, run: Run) -> Any:
        try:
            return await awaited(self._handlers.of(run.job.job_type)(run))
        except (SystemExit, KeyboardInterrupt):
            # Before the failure is reported, so that no other job is started meanwhile.
            self.stop()
            raise
