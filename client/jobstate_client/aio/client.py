"""The client for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc

from jobstate_client.aio.cancellation import is_cancelling
from jobstate_client.aio.group import AsyncGroup
from jobstate_client.aio.report_sender import AsyncReportSender
from jobstate_client.aio.run_context import AsyncRunContext
from jobstate_client.aio.updates import AsyncUpdates
from jobstate_client.aio.watch import AsyncWatch
from jobstate_client.aio.worker import AsyncWorker
from jobstate_client.core.batches import Batches, Made
from jobstate_client.core.calls import Call, CallRetries, Pages
from jobstate_client.core.channel import (
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_S,
    TLS,
    Options,
    channel_options,
    check_channel,
    open_channel,
)
from jobstate_client.core.client_methods import AsyncMethods
from jobstate_client.core.documents import seconds
from jobstate_client.core.grouping import new_group
from jobstate_client.core.handlers import Handlers
from jobstate_client.core.heartbeats import LOOKUP_TIMEOUT_S, HeartbeatIntervals, interval_within, keeping_lease
from jobstate_client.core.job_failure import IsRetryable
from jobstate_client.core.late_usage import late_usage
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.operations import JobRef
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run import PATIENCE_S, Heartbeat, Run, RunOptions, RunStart, default_worker
from jobstate_client.core.states import OnExcess
from jobstate_client.core.stubs import closed_during, new_stub
from jobstate_client.core.values import Event, Job, NewJob, Span, WatchItem
from jobstate_client.core.watch_connections import WatchConnections
from jobstate_client.core.watch_request import WatchMethod, watch_request
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.errors import ClientClosed, JobStateError

R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger("jobstate_client")


class AsyncClient(AsyncMethods):
    """A client for asyncio and one event loop: ``Client`` with ``await``, ``async with`` and ``async for``."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: Span = DEFAULT_TIMEOUT_S,
        tls: TLS | None = None,
        wait_for_ready: bool = False,
        options: Options = (),
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """Make a client. It belongs to the event loop of the first call, and connects then.

        Args:
            target: HOST:PORT of the server, or whatever else gRPC can resolve.
            timeout: for each call that does not say otherwise.
            tls: the settings for a server with a certificate; None connects without TLS.
            wait_for_ready: while the server is away, calls wait up to their timeout instead of failing soon.
            options: channel options of gRPC, added to the defaults or replacing them.
            channel: a channel to use instead of opening one; it stays open when the client is closed.

        Raises:
            TypeError: a channel is given together with ``target``, ``tls`` or ``options``.
        """
        check_channel(channel, target, tls, options)
        self._timeout_s = seconds(timeout, "timeout")
        # Only passed if set: not every substitute for a channel accepts it.
        self._call_options = {"wait_for_ready": True} if wait_for_ready else {}
        self._channel_given = channel
        self._channel_arguments = (target, tls, options)
        self._stubs: dict[str, Any] = {}
        self._lifetime = Lifetime()
        self._closed = asyncio.Event()
        self._heartbeat_intervals = HeartbeatIntervals()
        self._lookup_lock = asyncio.Lock()
        self._watches: weakref.WeakSet[AsyncWatch[Any] | AsyncUpdates] = weakref.WeakSet()
        self._connections = WatchConnections()
        self._watch_channels: dict[int, grpc.aio.Channel] = {}

    @cached_property
    def watch(self) -> WatchMethod[AsyncWatch[Event], AsyncWatch[WatchItem]]:
        """Watch events as they happen; see ``Client.watch``. Returns an asynchronous iterator."""
        return cast(WatchMethod[AsyncWatch[Event], AsyncWatch[WatchItem]], self._watch)

    def _watch(self, *, patience: Span | None = None, **arguments: Any) -> AsyncWatch[Any]:
        return self._open_watch(WatchSession(watch_request(**arguments), connect_s=self._timeout_s, patience=patience))

    def _open_watch(self, session: WatchSession) -> AsyncWatch[Any]:
        self._lifetime.check()
        watch: AsyncWatch[Any] = AsyncWatch(self._open_events, session)
        self._watches.add(watch)
        return watch

    def _open_events(self, request: Any, timeout: float | None) -> Any:
        self._lifetime.check()
        connection = 0 if self._channel_given is not None else self._connections.acquire()
        stub = self._stub_on(connection, "WatchEvents")
        try:
            call = stub(request, timeout=timeout)
        except grpc.aio.UsageError as failure:
            raise ClientClosed(str(failure)) from failure
        if self._channel_given is None:
            call.add_done_callback(lambda _call: self._connections.release(connection))
        return call

    def _stub_on(self, connection: int, name: str) -> Any:
        """The stub of this RPC on one of the client's connections."""
        if not connection:
            return self._stub(name)
        if connection not in self._watch_channels:
            # Otherwise gRPC would share the existing connection.
            self._watch_channels[connection] = self._make_channel(("grpc.use_local_subchannel_pool", 1))
        return new_stub(self._watch_channels[connection], name)

    async def wait(self, job: JobRef, timeout: Span | None = None) -> Job:  # noqa: ASYNC109
        """Wait until a job is final, and return it.

        Raises:
            DeadlineExceeded: it was not final within the timeout.
            JobNotFound: there is no such job.
            ClientClosed: the client was closed during the wait.
        """
        request = watch_request(job_ids=[job], types=["DELETED"], until_final=True)
        session = WatchSession(request, connect_s=self._timeout_s, timeout=timeout)
        async with self._open_watch(session) as watch:
            async for _ in watch:
                pass
        self._lifetime.check()
        return await self.get(job)

    def run(
        self,
        job: JobRef | NewJob,
        *,
        worker: str = "",
        heartbeat: Heartbeat = "auto",
        patience: Span = PATIENCE_S,
        is_retryable: IsRetryable | None = None,
    ) -> AsyncRunContext:
        """Do one attempt of a job: ``async with client.run(job) as run:``. See ``Client.run``."""
        self._lifetime.check()
        options = RunOptions(worker or default_worker(), heartbeat, patience, is_retryable)
        start_calls = RunStart(job)

        async def start() -> Job:
            if start_calls.new_job is not None:
                start_calls.job = await self.create(start_calls.new_job)
                start_calls.new_job = None
            return await self.start(start_calls.job, worker=options.worker, request_id=start_calls.request_id)

        return AsyncRunContext(self, start, options)

    def group(
        self,
        job_type: str,
        *,
        tolerated_failures: int = 0,
        on_excess: OnExcess | str = OnExcess.FINISH,
        patience: Span = PATIENCE_S,
        **fields: Any,
    ) -> AsyncGroup:
        """Create a group and, in the block, its members: ``async with client.group(job_type) as group:``.

        The group is closed when the block ends, and ends itself when its members have. If the block ends with an
        exception, the group is cancelled, unless it is stopping already because too many members have failed.

        Args:
            job_type: the type of the group.
            tolerated_failures: how many members may fail or be cancelled with the group still completing; -1: any.
            on_excess: what happens to the other members once more have failed than that.
            patience: how long to try to close or cancel it while the server is away; 0 does not try again.
            fields: further fields of a ``NewJob``, such as ``id``, ``source_id`` and ``metadata``. The members have the
                group's ``by`` too, unless they have their own.

        Raises, on entering:
            GroupExists: the ``unique_key`` belongs to a group already. That one is left alone.
            JobExists: there is a job with this id.
        """
        return AsyncGroup(self, new_group(job_type, tolerated_failures, on_excess, fields), patience)

    def updates(self, *, patience: Span = PATIENCE_S) -> AsyncUpdates:
        """Change many jobs over one stream: ``async with client.updates() as updates:``. See ``Client.updates``."""
        updates = AsyncUpdates(self._stub("StreamUpdates"), self._lifetime, seconds(patience, "patience"))
        self._watches.add(updates)
        return updates

    def worker(
        self,
        handler: Callable[[Run], Awaitable[Any]] | None = None,
        *,
        job_types: Iterable[str] | None = None,
        handlers: Mapping[str, Callable[[Run], Awaitable[Any]]] | None = None,
        concurrency: int = 1,
        worker: str = "",
        heartbeat: Heartbeat = "auto",
        patience: Span = PATIENCE_S,
        is_retryable: IsRetryable | None = None,
    ) -> AsyncWorker:
        """A worker that does the attempts of these job types, beside any number of other workers.

        See ``Client.worker``; ``handler`` is a coroutine function, and up to ``concurrency`` of them run at a time.
        """
        options = RunOptions(worker or default_worker(), heartbeat, patience, is_retryable)
        functions = Handlers(handler, job_types, handlers, is_async=True)
        return AsyncWorker(self, functions, concurrency, options)

    async def _heartbeat_s(self, job: Job, options: RunOptions) -> float | None:
        if options.heartbeat is None:
            return None
        if options.heartbeat != "auto":
            return keeping_lease(seconds(options.heartbeat), job.lease)
        if job.lease is not None:
            return interval_within(job.lease.total_seconds())
        async with self._lookup_lock:
            if self._heartbeat_intervals.has_expired:
                try:
                    self._heartbeat_intervals.update(await self.job_types(timeout=LOOKUP_TIMEOUT_S))
                except JobStateError:
                    self._heartbeat_intervals.lookup_failed()
        return self._heartbeat_intervals.interval_s(job.job_type)

    async def close(self) -> None:
        """Close the client.

        Watches end. Calls, waits and runs that are under way raise ``ClientClosed`` at once.
        """
        if self._lifetime.is_forked:
            # The tasks and connections of the parent process do not exist here.
            return
        self._lifetime.is_closed = True
        self._closed.set()
        for watch in list(self._watches):
            watch.close()
        if "_report_sender" in vars(self):
            await self._report_sender.close()
        if self._channel_given is None and "_channel" in vars(self):
            await self._channel.close()
        for channel in list(self._watch_channels.values()):
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        if self._channel_given is not None:
            return self._channel_given
        return self._make_channel()

    def _make_channel(self, *more: tuple[str, Any]) -> grpc.aio.Channel:
        target, tls, options = self._channel_arguments
        chosen = channel_options(target, tls, (*options, *more))
        if tls is None:
            return grpc.aio.insecure_channel(target, options=chosen)
        return grpc.aio.secure_channel(target, tls.credentials(), options=chosen)

    @cached_property
    def _report_sender(self) -> AsyncReportSender:
        # A channel that was given works only with asyncio, and does not reveal its target and options.
        connect = None if self._channel_given is not None else functools.partial(open_channel, *self._channel_arguments)
        return AsyncReportSender(self._stub("StreamUpdates"), self._lifetime, connect)

    def _stub(self, name: str) -> Any:
        self._lifetime.check()
        if name not in self._stubs:
            self._stubs[name] = new_stub(self._channel, name)
        return self._stubs[name]

    @contextlib.contextmanager
    def _stub_for(self, call: Call[Any]) -> Iterator[Any]:
        """The stub for a call. One that waits at the server takes a place on a connection, as a watch does."""
        self._lifetime.check()
        if not call.wait_s or self._channel_given is not None:
            yield self._stub(call.rpc)
            return
        connection = self._connections.acquire()
        try:
            yield self._stub_on(connection, call.rpc)
        finally:
            self._connections.release(connection)

    async def _invoke(self, call: Call[R]) -> R:
        through_outages = call.through_outages or bool(self._call_options)
        retries = CallRetries(call.timeout_s(self._timeout_s), through_outages=through_outages)
        while True:
            try:
                with self._stub_for(call) as stub:
                    response = await stub(call.request, timeout=retries.left_s(), **self._call_options)
            except grpc.RpcError as failure:
                if self._closed.is_set() and failure.code() is grpc.StatusCode.CANCELLED:
                    raise closed_during(call) from failure
                error = error_from_rpc(failure, call.request_id, call.arguments)
                await self._report_late_usage(late_usage(call, error))
                wait = retries.wait_s(error)
            except grpc.aio.UsageError as failure:
                raise closed_during(call) from failure
            except asyncio.CancelledError as failure:
                # grpc.aio reports a closed channel like the cancellation of a task.
                if is_cancelling():
                    raise
                raise closed_during(call) from failure
            else:
                return call.decode(response)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), wait)

    async def _invoke_all(self, batches: Batches[T]) -> tuple[T, ...]:
        self._lifetime.check()
        with Made[T]() as made:
            for call in batches.calls:
                items: tuple[T, ...] = await self._invoke(call)
                made.add(items)
        return made.items

    async def _report_late_usage(self, late: Call[Any] | None) -> None:
        """Report the usage of a call that was refused because its attempt is over."""
        if late is None:
            return
        try:
            await self._invoke(late)
        except JobStateError as error:
            log.warning("the usage of a refused report could not be reported (%s): %s", error, late.request)

    async def _iterate(self, pages: Pages[T]) -> AsyncIterator[T]:
        call: Call[Any] | None = pages.first
        while call is not None:
            page = await self._invoke(call)
            for item in page.items:
                yield item
            call = pages.after(page)
