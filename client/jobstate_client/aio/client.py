"""The client for asyncio."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc

from jobstate_client.aio.report_sender import AsyncReportSender
from jobstate_client.aio.run_context import AsyncRunContext
from jobstate_client.aio.watch import AsyncWatch, is_cancelling
from jobstate_client.aio.worker import AsyncWorker
from jobstate_client.core import maintenance, operations, validation
from jobstate_client.core.calls import RPCS, Call, CallRetries, Pages
from jobstate_client.core.channel import (
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_S,
    TLS,
    Options,
    channel_options,
    check_channel,
    open_channel,
)
from jobstate_client.core.documents import seconds
from jobstate_client.core.heartbeats import LOOKUP_S, HeartbeatIntervals
from jobstate_client.core.job_failure import IsRetryable
from jobstate_client.core.late_usage import late_usage
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.methods import async_listing, async_method
from jobstate_client.core.operations import JobRef
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run import PATIENCE_S, Heartbeat, Run, RunOptions, RunStart, default_worker
from jobstate_client.core.values import Event, Job, NewJob, Span, WatchItem
from jobstate_client.core.watch_connections import WatchConnections
from jobstate_client.core.watch_session import WatchMethod, WatchSession, watch_request
from jobstate_client.errors import ClientClosed, JobStateError

R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger("jobstate_client")


class AsyncClient:
    """A client for asyncio, of one event loop: ``Client`` with ``await``, ``async with`` and ``async for``."""

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
            tls: how to talk to a server with a certificate; None talks in clear text.
            wait_for_ready: let calls wait for a server that is away, up to their timeout, instead of failing soon.
            options: channel options of gRPC, beside and before ours.
            channel: a channel to use in place of one of our own; it stays open when the client is closed. ``target``,
                ``tls`` and ``options`` are then its maker's to choose.

        Raises:
            TypeError: there is a channel, and something beside it that it has been made with already.
        """
        check_channel(channel, target, tls, options)
        self._timeout_s = seconds(timeout, "timeout")
        # Left out unless wanted: not every stand-in for a channel knows it.
        self._call_options = {"wait_for_ready": True} if wait_for_ready else {}
        self._channel_given = channel
        self._how = (target, tls, options)
        self._stubs: dict[str, Any] = {}
        self._lifetime = Lifetime()
        self._closed = asyncio.Event()
        self._heartbeat_intervals = HeartbeatIntervals()
        self._lookup_lock = asyncio.Lock()
        self._watches: weakref.WeakSet[AsyncWatch[Any]] = weakref.WeakSet()
        self._places = WatchConnections()
        self._further: dict[int, grpc.aio.Channel] = {}
        """Connections beside the first, for watches that it has no room for."""

    create = async_method(operations.create)
    create_many = async_method(operations.create_many)
    get = async_method(operations.get)
    attempts = async_method(operations.attempts)
    list = async_listing(operations.list_jobs)
    start = async_method(operations.start)
    progress = async_method(operations.progress)
    complete = async_method(operations.complete)
    fail = async_method(operations.fail)
    retry = async_method(operations.retry)
    cancel = async_method(operations.cancel)
    report_usage = async_method(operations.report_usage)
    stats = async_method(operations.stats)
    job_types = async_method(operations.job_types)
    check_stale = async_method(maintenance.check_stale)
    retry_failed = async_method(maintenance.retry_failed)
    cleanup = async_method(maintenance.cleanup)
    check_health = async_method(maintenance.check_health)
    tasks = async_method(maintenance.tasks)

    @cached_property
    def watch(self) -> WatchMethod[AsyncWatch[Event], AsyncWatch[WatchItem]]:
        """Watch events as they happen; see ``Client.watch``. Returns an asynchronous iterator."""
        return cast(WatchMethod[AsyncWatch[Event], AsyncWatch[WatchItem]], self._watch)

    def _watch(self, *, patience: Span | None = None, **arguments: Any) -> AsyncWatch[Any]:
        return self._open_watch(WatchSession(watch_request(**arguments), connect_s=self._timeout_s, patience=patience))

    def _open_watch(self, course: WatchSession) -> AsyncWatch[Any]:
        self._lifetime.check()
        watch: AsyncWatch[Any] = AsyncWatch(self._open_events, course)
        self._watches.add(watch)
        return watch

    def _open_events(self, request: Any, timeout: float | None) -> Any:
        self._lifetime.check()
        place = 0 if self._channel_given is not None else self._places.take()
        stub = self._watch_stub(place)
        try:
            call = stub(request, timeout=timeout)
        except grpc.aio.UsageError as failure:
            raise ClientClosed(str(failure)) from failure
        if self._channel_given is None:
            call.add_done_callback(lambda _call: self._places.give_back(place))
        return call

    def _watch_stub(self, place: int) -> Any:
        if not place:
            return self._stub("WatchEvents")
        if place not in self._further:
            # Else gRPC would share the connection there is.
            self._further[place] = self._make_channel(("grpc.use_local_subchannel_pool", 1))
        rpc, channel = RPCS["WatchEvents"], self._further[place]
        return channel.unary_stream(
            rpc.path,
            request_serializer=rpc.request_type.SerializeToString,
            response_deserializer=rpc.response_type.FromString,
        )

    async def wait(self, job: JobRef, timeout: Span | None = None) -> Job:  # noqa: ASYNC109
        """Wait until a job is final, and return it.

        Raises:
            DeadlineExceeded: it was not within the timeout.
            JobNotFound: there is no such job.
            ClientClosed: the client was closed meanwhile.
        """
        request = watch_request(job_ids=[job], types=["DELETED"], until_final=True)
        course = WatchSession(request, connect_s=self._timeout_s, timeout=timeout)
        async with self._open_watch(course) as watch:
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
        terms = RunOptions(worker or default_worker(), heartbeat, patience, is_retryable)
        begin = RunStart(job)

        async def start() -> Job:
            if begin.creation is not None:
                begin.job = await self.create(begin.creation)
                begin.creation = None
            return await self.start(begin.job, worker=terms.worker, request_id=begin.request_id)

        return AsyncRunContext(self, start, terms)

    def worker(
        self,
        handler: Callable[[Run], Awaitable[Any]],
        *,
        job_types: Iterable[str],
        concurrency: int = 1,
        worker: str = "",
        heartbeat: Heartbeat = "auto",
        patience: Span = PATIENCE_S,
        is_retryable: IsRetryable | None = None,
    ) -> AsyncWorker:
        """A worker that does every attempt of these job types that it can get, among any number of others.

        See ``Client.worker``; ``handler`` is a coroutine function, and up to ``concurrency`` of them run at a time.
        """
        terms = RunOptions(worker or default_worker(), heartbeat, patience, is_retryable)
        return AsyncWorker(self, handler, validation.names(job_types, "job_types"), concurrency, terms)

    async def _heartbeat_s(self, job: Job, terms: RunOptions) -> float | None:
        if terms.heartbeat != "auto":
            return None if terms.heartbeat is None else seconds(terms.heartbeat)
        async with self._lookup_lock:
            if self._heartbeat_intervals.is_expired:
                try:
                    self._heartbeat_intervals.learn(await self.job_types(timeout=LOOKUP_S))
                except JobStateError:
                    self._heartbeat_intervals.lookup_failed()
        return self._heartbeat_intervals.heartbeat_s(job.job_type)

    async def close(self) -> None:
        """Close the connection.

        Watches end. Calls, waits and runs that are under way raise ``ClientClosed``, at once.
        """
        if self._lifetime.is_forked:
            # Of the parent's tasks and connections nothing is here that could be closed.
            return
        self._lifetime.is_closed = True
        self._closed.set()
        for watch in builtins.list(self._watches):
            watch.close()
        if "_reporter" in vars(self):
            await self._reporter.close()
        if self._channel_given is None and "_channel" in vars(self):
            await self._channel.close()
        for channel in builtins.list(self._further.values()):
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
        target, tls, options = self._how
        chosen = channel_options(target, tls, (*options, *more))
        if tls is None:
            return grpc.aio.insecure_channel(target, options=chosen)
        return grpc.aio.secure_channel(target, tls.credentials(), options=chosen)

    @cached_property
    def _reporter(self) -> AsyncReportSender:
        # A channel that was given is for asyncio alone, and how it was made is not to be learnt from it.
        connect = None if self._channel_given is not None else functools.partial(open_channel, *self._how)
        return AsyncReportSender(self._stub("StreamUpdates"), self._lifetime, connect)

    def _stub(self, name: str) -> Any:
        self._lifetime.check()
        if name not in self._stubs:
            rpc = RPCS[name]
            make: Any = {
                "StreamUpdates": self._channel.stream_stream,
                "WatchEvents": self._channel.unary_stream,
            }.get(name, self._channel.unary_unary)
            self._stubs[name] = make(
                rpc.path,
                request_serializer=rpc.request_type.SerializeToString,
                response_deserializer=rpc.response_type.FromString,
            )
        return self._stubs[name]

    async def _invoke(self, call: Call[R]) -> R:
        timeout_s = self._timeout_s if call.timeout is None else seconds(call.timeout, "timeout")
        repeats = CallRetries(timeout_s, through_outages=bool(self._call_options))
        while True:
            stub = self._stub(call.rpc)
            try:
                response = await stub(call.request, timeout=repeats.left_s(), **self._call_options)
            except grpc.RpcError as failure:
                if self._closed.is_set() and failure.code() is grpc.StatusCode.CANCELLED:
                    raise _closed(call) from failure
                error = error_from_rpc(failure, call.request_id)
                await self._report_late_usage(late_usage(call, error))
                wait = repeats.wait_s(error)
            except grpc.aio.UsageError as failure:
                raise _closed(call) from failure
            except asyncio.CancelledError as failure:
                # grpc.aio tells the closing of a channel like the cancelling of a task.
                if is_cancelling():
                    raise
                raise _closed(call) from failure
            else:
                return call.read(response)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), wait)

    async def _report_late_usage(self, late: Call[Any] | None) -> None:
        """Book the usage of a report that was refused because its attempt is over."""
        if late is None:
            return
        try:
            await self._invoke(late)
        except JobStateError as error:
            log.warning("the usage of a refused report could not be told (%s): %s", error, late.request)

    async def _iterate(self, pages: Pages[T]) -> AsyncIterator[T]:
        call: Call[Any] | None = pages.first
        while call is not None:
            page = await self._invoke(call)
            for item in page.items:
                yield item
            call = pages.after(page)


def _closed(call: Call[Any]) -> ClientClosed:
    error = ClientClosed("the client was closed during the call")
    error.request_id = call.request_id
    return error
