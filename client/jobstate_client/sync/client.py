"""The synchronous client."""

from __future__ import annotations

import builtins
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc

from jobstate_client.core import maintenance, operations, validation
from jobstate_client.core.calls import RPCS, Call, CallRetries, Pages
from jobstate_client.core.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, TLS, Options, check_channel, open_channel
from jobstate_client.core.documents import seconds
from jobstate_client.core.heartbeats import LOOKUP_S, HeartbeatIntervals
from jobstate_client.core.job_failure import IsRetryable
from jobstate_client.core.late_usage import late_usage
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.methods import sync_listing, sync_method
from jobstate_client.core.operations import JobRef
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run import PATIENCE_S, Heartbeat, Run, RunOptions, RunStart, default_worker
from jobstate_client.core.values import Event, Job, NewJob, Span, WatchItem
from jobstate_client.core.watch_connections import WatchConnections
from jobstate_client.core.watch_session import WatchMethod, WatchSession, watch_request
from jobstate_client.errors import ClientClosed, JobStateError
from jobstate_client.sync.report_sender import ReportSender
from jobstate_client.sync.run_context import RunContext
from jobstate_client.sync.timeouts import Timeouts
from jobstate_client.sync.watch import Watch
from jobstate_client.sync.worker import Worker

R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger("jobstate_client")


class Client:
    """A client for threads: every method may be called from any of them.

    Calls raise the errors of ``jobstate_client.errors``. Those that change something carry a request_id, so that they
    are repeated safely when a connection breaks or the server asks to come back later.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: Span = DEFAULT_TIMEOUT_S,
        tls: TLS | None = None,
        wait_for_ready: bool = False,
        options: Options = (),
        channel: grpc.Channel | None = None,
    ) -> None:
        """Make a client. It connects when the first call is made.

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
        self._closed = threading.Event()
        self._lock = threading.RLock()
        self._made_reporter: ReportSender | None = None
        self._heartbeat_intervals = HeartbeatIntervals()
        self._lookup_lock = threading.Lock()
        self._watches: weakref.WeakSet[Watch[Any]] = weakref.WeakSet()
        self._silence = Timeouts()
        self._places = WatchConnections()
        self._further: dict[int, grpc.Channel] = {}
        """Connections beside the first, for watches that it has no room for."""

    create = sync_method(operations.create)
    create_many = sync_method(operations.create_many)
    get = sync_method(operations.get)
    attempts = sync_method(operations.attempts)
    list = sync_listing(operations.list_jobs)
    start = sync_method(operations.start)
    progress = sync_method(operations.progress)
    complete = sync_method(operations.complete)
    fail = sync_method(operations.fail)
    retry = sync_method(operations.retry)
    cancel = sync_method(operations.cancel)
    report_usage = sync_method(operations.report_usage)
    stats = sync_method(operations.stats)
    job_types = sync_method(operations.job_types)
    check_stale = sync_method(maintenance.check_stale)
    retry_failed = sync_method(maintenance.retry_failed)
    cleanup = sync_method(maintenance.cleanup)
    check_health = sync_method(maintenance.check_health)
    tasks = sync_method(maintenance.tasks)

    @cached_property
    def watch(self) -> WatchMethod[Watch[Event], Watch[WatchItem]]:
        """Watch events as they happen: docs/watch.md. Returns an iterator that resumes by itself.

        Without a position it begins now, with ``start="earliest"`` at the oldest event kept, with ``cursor`` where an
        earlier watch was. With ``snapshot`` it yields ``SnapshotStarted``, a ``SnapshotJob`` for each matching job, and
        ``Synced``, then the events from there on; beside a ``cursor`` no jobs are told, only ``Synced`` once everything
        up to now has been. ``latest_progress`` lets superseded progress be left out.
        ``patience`` is how long the server may be away; None waits for ever. The first answer has to come within the
        client's timeout.

        Raises, while it is iterated over:
            CursorExpired, CursorUnknown: it cannot be resumed; watch again with ``snapshot``.
            Unreachable: the server did not come (back) in time.
        """
        return cast(WatchMethod[Watch[Event], Watch[WatchItem]], self._watch)

    def _watch(self, *, patience: Span | None = None, **arguments: Any) -> Watch[Any]:
        return self._open_watch(WatchSession(watch_request(**arguments), connect_s=self._timeout_s, patience=patience))

    def _open_watch(self, course: WatchSession) -> Watch[Any]:
        self._lifetime.check()
        watch: Watch[Any] = Watch(self._open_events, course, self._silence)
        with self._lock:
            self._watches.add(watch)
        return watch

    def _open_events(self, request: Any, timeout: float | None) -> Any:
        self._lifetime.check()
        place = 0 if self._channel_given is not None else self._places.take()
        stub = self._watch_stub(place)
        try:
            call = stub(request, timeout=timeout)
        except ValueError as failure:
            # All that gRPC says of a channel that is closed.
            raise ClientClosed(str(failure)) from failure
        give_back = functools.partial(self._places.give_back, place)
        if self._channel_given is None and not call.add_callback(give_back):
            give_back()
        return call

    def _watch_stub(self, place: int) -> Any:
        if not place:
            return self._stub("WatchEvents")
        with self._lock:
            if place not in self._further:
                target, tls, options = self._how
                # Else gRPC would share the connection there is.
                self._further[place] = open_channel(target, tls, (*options, ("grpc.use_local_subchannel_pool", 1)))
            rpc, channel = RPCS["WatchEvents"], self._further[place]
        return channel.unary_stream(
            rpc.path,
            request_serializer=rpc.request_type.SerializeToString,
            response_deserializer=rpc.response_type.FromString,
        )

    def wait(self, job: JobRef, timeout: Span | None = None) -> Job:
        """Wait until a job is final, and return it.

        Raises:
            DeadlineExceeded: it was not within the timeout.
            JobNotFound: there is no such job.
            ClientClosed: the client was closed meanwhile.
        """
        request = watch_request(job_ids=[job], types=["DELETED"], until_final=True)
        course = WatchSession(request, connect_s=self._timeout_s, timeout=timeout)
        with self._open_watch(course) as watch:
            for _ in watch:
                pass
        self._lifetime.check()
        return self.get(job)

    def run(
        self,
        job: JobRef | NewJob,
        *,
        worker: str = "",
        heartbeat: Heartbeat = "auto",
        patience: Span = PATIENCE_S,
        is_retryable: IsRetryable | None = None,
    ) -> RunContext:
        """Do one attempt of a job: ``with client.run(job) as run:``.

        Entering starts it (a ``NewJob`` is created first), leaving completes it, and an exception fails it and goes on:
        see ``Run`` and ``JobFailure``.

        Args:
            job: what to start.
            worker: who does the work, for people; empty names this machine and process.
            heartbeat: silence after which the server is told that the run is alive: "auto" is a quarter of what the
                job type allows, 30 seconds at most; None never tells.
            patience: how long to try to tell how it ended while the server is away.
            is_retryable: decides whether trying again can help after an exception that does not say so itself.

        Raises, on entering:
            TransitionNotAllowed: somebody else has the job, or there is nothing to start.
        """
        self._lifetime.check()
        terms = RunOptions(worker or default_worker(), heartbeat, patience, is_retryable)
        begin = RunStart(job)

        def start() -> Job:
            if begin.creation is not None:
                begin.job = self.create(begin.creation)
                begin.creation = None
            return self.start(begin.job, worker=terms.worker, request_id=begin.request_id)

        return RunContext(self, start, terms, lambda: begin.has_started)

    def worker(
        self,
        handler: Callable[[Run], Any],
        *,
        job_types: Iterable[str],
        concurrency: int = 1,
        worker: str = "",
        heartbeat: Heartbeat = "auto",
        patience: Span = PATIENCE_S,
        is_retryable: IsRetryable | None = None,
    ) -> Worker:
        """A worker that does every attempt of these job types that it can get, among any number of others.

        ``handler`` is called with a ``Run`` in one of ``concurrency`` threads; a dict that it returns is the result.
        Its exceptions fail the attempt. Call the worker's ``run``, which returns after its ``stop``.
        """
        terms = RunOptions(worker or default_worker(), heartbeat, patience, is_retryable)
        return Worker(self, handler, validation.names(job_types, "job_types"), concurrency, terms)

    def _heartbeat_s(self, job: Job, terms: RunOptions) -> float | None:
        if terms.heartbeat != "auto":
            return None if terms.heartbeat is None else seconds(terms.heartbeat)
        with self._lookup_lock:
            if self._heartbeat_intervals.is_expired:
                try:
                    self._heartbeat_intervals.learn(self.job_types(timeout=LOOKUP_S))
                except JobStateError:
                    self._heartbeat_intervals.lookup_failed()
        return self._heartbeat_intervals.heartbeat_s(job.job_type)

    def close(self) -> None:
        """Close the connection, from any thread.

        Watches end. Calls, waits and runs that are under way raise ``ClientClosed``, at once.
        """
        if self._lifetime.is_forked:
            # Of the parent's threads and connections nothing is here that could be closed.
            return
        self._lifetime.is_closed = True
        self._closed.set()
        with self._lock:
            watches = builtins.list(self._watches)
        for watch in watches:
            watch.close()
        self._silence.close()
        if self._made_reporter is not None:
            self._made_reporter.close()
        if self._channel_given is None and "_channel" in vars(self):
            self._channel.close()
        with self._lock:
            further = builtins.list(self._further.values())
        for channel in further:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _channel(self) -> grpc.Channel:
        # Made with the first call, so that a client that is made before a fork may be used after it.
        if self._channel_given is not None:
            return self._channel_given
        return open_channel(*self._how)

    @property
    def _reporter(self) -> ReportSender:
        with self._lock:
            if self._made_reporter is None:
                owner = weakref.ref(self)
                self._made_reporter = ReportSender(self._stub("StreamUpdates"), self._lifetime, owner, self._silence)
            return self._made_reporter

    def _stub(self, name: str) -> Any:
        self._lifetime.check()
        stub = self._stubs.get(name)
        return self._make_stub(name) if stub is None else stub

    def _make_stub(self, name: str) -> Any:
        rpc = RPCS[name]
        with self._lock:
            make = {
                "StreamUpdates": self._channel.stream_stream,
                "WatchEvents": self._channel.unary_stream,
            }.get(name, self._channel.unary_unary)
            self._stubs[name] = stub = make(
                rpc.path,
                request_serializer=rpc.request_type.SerializeToString,
                response_deserializer=rpc.response_type.FromString,
            )
        return stub

    def _invoke(self, call: Call[R]) -> R:
        timeout_s = self._timeout_s if call.timeout is None else seconds(call.timeout, "timeout")
        repeats = CallRetries(timeout_s, through_outages=bool(self._call_options))
        while True:
            stub = self._stub(call.rpc)
            try:
                response = stub(call.request, timeout=repeats.left_s(), **self._call_options)
            except grpc.RpcError as failure:
                if self._closed.is_set() and failure.code() is grpc.StatusCode.CANCELLED:
                    raise _closed(call) from failure
                error = error_from_rpc(failure, call.request_id)
                self._report_late_usage(late_usage(call, error))
                wait = repeats.wait_s(error)
            except ValueError as failure:
                # All that gRPC says of a channel that is closed.
                raise _closed(call) from failure
            else:
                return call.read(response)
            self._closed.wait(wait)

    def _report_late_usage(self, late: Call[Any] | None) -> None:
        """Book the usage of a report that was refused because its attempt is over."""
        if late is None:
            return
        try:
            self._invoke(late)
        except JobStateError as error:
            log.warning("the usage of a refused report could not be told (%s): %s", error, late.request)

    def _iterate(self, pages: Pages[T]) -> Iterator[T]:
        call: Call[Any] | None = pages.first
        while call is not None:
            page = self._invoke(call)
            yield from page.items
            call = pages.after(page)


def _closed(call: Call[Any]) -> ClientClosed:
    error = ClientClosed("the client was closed during the call")
    error.request_id = call.request_id
    return error
