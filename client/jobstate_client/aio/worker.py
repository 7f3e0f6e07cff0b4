"""A worker: watches for jobs that wait, starts those that it can get, and runs their handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from jobstate_client.aio.interrupts import stopping_on_interrupt
from jobstate_client.aio.run_context import AsyncRunContext
from jobstate_client.core.calls import TRANSIENT, Backoff
from jobstate_client.core.handlers import awaited, check_worker, result_of
from jobstate_client.core.operations import new_request_id
from jobstate_client.core.run import Run, RunOptions
from jobstate_client.core.run_ending import is_lost
from jobstate_client.core.values import Job, Synced
from jobstate_client.core.waiting_jobs import LISTED, PAGE_SIZE, WATCHED, WaitingJobs
from jobstate_client.core.watch_request import watch_request
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.errors import CursorExpired, CursorUnknown, JobStateError

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient
    from jobstate_client.aio.watch import AsyncWatch

log = logging.getLogger("jobstate_client")


class _NotStarted(Exception):
    """The job could not be started: another worker has it."""


class AsyncWorker:
    """Does the attempts of some job types. Make one with ``AsyncClient.worker``."""

    def __init__(
        self,
        client: AsyncClient,
        handler: Callable[[Run], Awaitable[Any]],
        job_types: list[str],
        concurrency: int,
        options: RunOptions,
    ) -> None:
        check_worker(handler, job_types, concurrency, is_async=True)
        self._client = client
        self._handler = handler
        self._job_types = job_types
        self._concurrency = concurrency
        self._options = options
        self._waiting_jobs = WaitingJobs()
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_listing = False
        self._watch: AsyncWatch[Any] | None = None
        self._failure: BaseException | None = None
        """Why the worker stops, if not because of ``stop``."""

    async def run(self) -> None:
        """Work until ``stop`` is called. Returns when the running handlers have ended.

        The first Ctrl-C does the same as ``stop``, unless the program has its own handler for that signal. A second
        one cancels the event loop's main task, as usual. A worker that is cancelled cancels its handlers, and waits
        until their failures have been reported.

        Raises:
            JobStateError: the watch cannot be resumed. The running handlers have ended by then.
            SystemExit, KeyboardInterrupt: a handler raised it. Its attempt has failed, and the others have ended.
            Exception: a task of the worker has died. The running handlers have ended.
        """
        slots = [
            asyncio.create_task(self._serve(), name=f"jobstate-worker-{number}") for number in range(self._concurrency)
        ]
        with stopping_on_interrupt(self.stop):
            try:
                try:
                    while not self._stopping.is_set():
                        await self._follow()
                finally:
                    self.stop()
                await asyncio.wait(slots)
            except asyncio.CancelledError:
                for slot in slots:
                    slot.cancel()
                raise
            finally:
                await asyncio.wait(slots)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Start no more jobs. May be called from anywhere on the event loop, also from a handler."""
        self._stopping.set()
        self._news.set()
        if self._watch is not None:
            self._watch.close()

    def _fail(self, error: BaseException) -> None:
        """Stop, and let ``run`` raise this error after the others have ended."""
        if self._failure is None:
            self._failure = error
        self.stop()

    async def _follow(self) -> None:
        """Watch and list until the worker stops, or the watch cannot be resumed."""
        request = watch_request(job_types=self._job_types, types=WATCHED)
        session = WatchSession(request, connect_s=self._client._timeout_s, emit_synced=True)
        async with self._client._open_watch(session) as watch:
            self._watch = watch
            if self._stopping.is_set():
                return
            try:
                async for item in watch:
                    if isinstance(item, Synced):
                        # List the jobs that exist already. The watch is open, so no change is missed meanwhile.
                        await self._list()
                    else:
                        self._waiting_jobs.update(item)
                        self._news.set()
            except (CursorExpired, CursorUnknown):
                log.warning("the watch of a worker could not be resumed; listing the jobs again")

    async def _list(self) -> bool:
        self._waiting_jobs.listing_started()
        try:
            jobs = self._client.list(states=LISTED, job_types=self._job_types, oldest_first=True, page_size=PAGE_SIZE)
            async for job in jobs:
                if self._stopping.is_set() or not self._waiting_jobs.update(job):
                    break
                self._news.set()
        except TRANSIENT as error:
            log.warning("the jobs could not be listed (%s); trying again soon", error)
            self._waiting_jobs.listing_failed()
            return False
        return True

    async def _serve(self) -> None:
        """The body of a task. If it dies while the worker runs, the worker stops with its error."""
        try:
            while (job_id := await self._next()) is not None:
                await self._do(job_id)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                self._fail(RuntimeError("a task of the worker was cancelled"))
            raise
        except BaseException as error:
            log.exception("a task of the worker has died; the worker stops")
            self._fail(error)

    async def _next(self) -> str | None:
        """The next job to try; None when the worker stops."""
        backoff = Backoff()
        while not self._stopping.is_set():
            if self._waiting_jobs:
                return self._waiting_jobs.pop()
            if self._waiting_jobs.needs_listing and not self._is_listing:
                self._is_listing = True
                if not await self._list():
                    await self._pause(backoff.next())
                self._is_listing = False
                self._news.set()
            else:
                self._news.clear()
                await self._news.wait()
        return None

    async def _pause(self, wait: float) -> bool:
        """Wait this long, or until the worker stops. Returns whether it stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _do(self, job_id: str) -> None:
        """Run an attempt of this job, if it can be started, in its own task: cancelling that ends only the attempt."""
        task = asyncio.create_task(self._attempt(job_id), name=f"jobstate-run-{job_id}")
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if not task.cancelled() and (failure := task.exception()) is not None:
            raise failure

    async def _attempt(self, job_id: str) -> None:
        attempt = 0

        async def start() -> Job:
            nonlocal attempt
            job = await self._start(job_id)
            self._waiting_jobs.start_tried(won=job is not None)
            if job is None:
                raise _NotStarted
            attempt = job.attempt
            return job

        try:
            async with AsyncRunContext(self._client, start, self._options) as run:
                result = result_of(await self._call(run))
                if result is not None:
                    run.result = result
        except _NotStarted:
            pass
        except (SystemExit, KeyboardInterrupt) as error:
            log.warning("attempt %d of job %s raised %r: the worker stops", attempt, job_id, error)
            self._fail(error)
        except BaseException as error:
            if not attempt and not isinstance(error, asyncio.CancelledError):
                # Not raised by the handler.
                raise
            if is_lost(error):
                log.info("attempt %d of job %s is over: %s", attempt, job_id, error)
            else:
                log.warning("attempt %d of job %s failed", attempt, job_id, exc_info=error)

    async def _call(self, run: Run) -> Any:
        try:
            return await awaited(self._handler(run))
        except (SystemExit, KeyboardInterrupt):
            # Before the failure is reported, so that no other job is started meanwhile.
            self.stop()
            raise

    async def _start(self, job_id: str) -> Job | None:
        """Start the job if it still waits. While the outcome is unknown, the same call is repeated."""
        backoff, request_id = Backoff(), new_request_id()
        while True:
            try:
                return await self._client.start(job_id, worker=self._options.worker, request_id=request_id)
            except TRANSIENT as error:
                wait = backoff.next()
                log.warning("job %s could not be started (%s); trying again in %.1f s", job_id, error, wait)
                if await self._pause(wait):
                    return None
            except JobStateError as error:
                log.log(logging.DEBUG if is_lost(error) else logging.WARNING, "job %s: not started: %s", job_id, error)
                return None
