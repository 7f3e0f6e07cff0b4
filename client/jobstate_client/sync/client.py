"""The synchronous client."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc

from jobstate_client.core.batches import Batches, Made
from jobstate_client.core.calls import Call, CallRetries, Pages
from jobstate_client.core.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, TLS, Options, check_channel, open_channel
from jobstate_client.core.client_methods import SyncMethods
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
from jobstate_client.sync.group import Group
from jobstate_client.sync.report_sender import ReportSender
from jobstate_client.sync.run_context import RunContext
from jobstate_client.sync.timeouts import Timeouts
from jobstate_client.sync.updates import Updates
from jobstate_client.sync.watch import Watch
from jobstate_client.sync.worker import Worker

R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger("jobstate_client")


class Client(SyncMethods):
    """A client for threads: every method may be called from any of them.

    Calls raise the errors of ``jobstate_client.errors``. Calls that change something have a request_id, so they are
    repeated safely when a connection breaks or the server asks to try later.
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
        """Make a client. It connects with the first call.

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
        self._closed = threading.Event()
        self._lock = threading.RLock()
        self._made_report_sender: ReportSender | None = None
        self._heartbeat_intervals = HeartbeatIntervals()
        self._lookup_lock = threading.Lock()
        self._watches: weakref.WeakSet[Watch[Any] | Updates] = weakref.WeakSet()
        self._timeouts = Timeouts()
        self._connections = WatchConnections()
        self._watch_channels: dict[int, grpc.Channel] = {}

    @cached_property
    def watch(self) -> WatchMethod[Watch[Event], Watch[WatchItem]]:
        """Watch events as they happen (docs/watch.md). Returns an iterator that resumes by itself.

        Without a position the watch begins now; with ``start="earliest"`` at the oldest event that is kept; with
        ``cursor`` where an earlier watch was. With ``snapshot`` it yields ``SnapshotStarted``, a ``SnapshotJob`` for
        each matching job and ``Synced``, and then the events from there on. With both ``cursor`` and ``snapshot`` it
        yields no jobs, only ``Synced`` after the events up to now. ``latest_progress`` leaves out progress that later
        progress has replaced. ``patience`` is how long the server may be away; None waits for ever. The first response
        has to come within the client's timeout.

        Raises, during the iteration:
            CursorExpired, CursorUnknown: the watch cannot be resumed; watch again with ``snapshot``.
            Unreachable: the server was away for too long.
        """
        return cast(WatchMethod[Watch[Event], Watch[WatchItem]], self._watch)

    def _watch(self, *, patience: Span | None = None, **arguments: Any) -> Watch[Any]:
        return self._open_watch(WatchSession(watch_request(**arguments), connect_s=self._timeout_s, patience=patience))

    def _open_watch(self, session: WatchSession) -> Watch[Any]:
        self._lifetime.check()
        watch: Watch[Any] = Watch(self._open_events, session, self._timeouts)
        with self._lock:
            self._watches.add(watch)
        return watch

    def _open_events(self, request: Any, timeout: float | None) -> Any:
        self._lifetime.check()
        connection = 0 if self._channel_given is not None else self._connections.acquire()
        stub = self._stub_on(connection, "WatchEvents")
        try:
            call = stub(request, timeout=timeout)
        except ValueError as failure:
            # gRPC raises ValueError for a closed channel.
            raise ClientClosed(str(failure)) from failure
        release = functools.partial(self._connections.release, connection)
        if self._channel_given is None and not call.add_callback(release):
            release()
        return call

    def _stub_on(self, connection: int, name: str) -> Any:
        """The stub of this RPC on one of the client's connections."""
        if not connection:
            return self._stub(name)
        with self._lock:
            if connection not in self._watch_channels:
                target, tls, options = self._channel_arguments
                # Otherwise gRPC would share the existing connection.
                self._watch_channels[connection] = open_channel(
                    target, tls, (*options, ("grpc.use_local_subchannel_pool", 1))
                )
            return new_stub(self._watch_channels[connection], name)

    def wait(self, job: JobRef, timeout: Span | None = None) -> Job:
        """Wait until a job is final, and return it.

        Raises:
            DeadlineExceeded: it was not final within the timeout.
            JobNotFound: there is no such job.
            ClientClosed: the client was closed during the wait.
        """
        request = watch_request(job_ids=[job], types=["DELETED"], until_final=True)
        session = WatchSession(request, connect_s=self._timeout_s, timeout=timeout)
        with self._open_watch(session) as watch:
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

        Entering the block starts the job; a ``NewJob`` is created first. Leaving the block completes the job. An
        exception fails the attempt, and is raised on: see ``Run`` and ``JobFailure``.

        Args:
            job: the job to start.
            worker: the name of the worker, for people; empty takes the machine and process.
            heartbeat: send a heartbeat after this long without a report. "auto" is a quarter of the stale threshold
                of the job type, at most 30 seconds; None sends none.
            patience: how long to try to report the end while the server is away.
            is_retryable: decides whether a failure is retryable, for an exception that does not say so itself.

        Raises, on entering:
            TransitionNotAllowed: another worker has the job, or it is in a state in which it cannot be started.
        """
        self._lifetime.check()
        options = RunOptions(worker or default_worker(), heartbeat, patience, is_retryable)
        start_calls = RunStart(job)

        def start() -> Job:
            if start_calls.new_job is not None:
                start_calls.job = self.create(start_calls.new_job)
                start_calls.new_job = None
            return self.start(start_calls.job, worker=options.worker, request_id=start_calls.request_id)

        return RunContext(self, start, options, lambda: start_calls.may_have_started)

    def group(
        self,
        job_type: str,
        *,
        tolerated_failures: int = 0,
        on_excess: OnExcess | str = OnExcess.FINISH,
        patience: Span = PATIENCE_S,
        **fields: Any,
    ) -> Group:
        """Create a group and, in the block, its members: ``with client.group(job_type) as group:``.

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
        return Group(self, new_group(job_type, tolerated_failures, on_excess, fields), patience)

    def updates(self, *, patience: Span = PATIENCE_S) -> Updates:
        """Change many jobs over one stream: ``with client.updates() as updates:``. See ``Updates``.

        The end of the block waits for the answers. After a server was away for longer than ``patience``, what waits
        fails with its error.
        """
        updates = Updates(self._stub("StreamUpdates"), self._lifetime, self._timeouts, seconds(patience, "patience"))
        with self._lock:
            self._watches.add(updates)
        return updates

    def worker(
        self,
        handler: Callable[[Run], Any] | None = None,
        *,
        job_types: Iterable[str] | None = None,
        handlers: Mapping[str, Callable[[Run], Any]] | None = None,
        concurrency: int = 1,
        worker: str = "",
        heartbeat: Heartbeat = "auto",
        patience: Span = PATIENCE_S,
        is_retryable: IsRetryable | None = None,
    ) -> Worker:
        """A worker that does the attempts of these job types, beside any number of other workers.

        ``handler`` is called with a ``Run``, in one of ``concurrency`` threads. A dict that it returns is the result,
        and an exception fails the attempt. Call the worker's ``run``, which returns after ``stop``. Instead of
        ``handler`` and ``job_types``, ``handlers`` may have a function for each type: ``{"email": send_email}``.
        """
        options = RunOptions(worker or default_worker(), heartbeat, patience, is_retryable)
        functions = Handlers(handler, job_types, handlers, is_async=False)
        return Worker(self, functions, concurrency, options)

    def _heartbeat_s(self, job: Job, options: RunOptions) -> float | None:
        if options.heartbeat is None:
            return None
        if options.heartbeat != "auto":
            return keeping_lease(seconds(options.heartbeat), job.lease)
        if job.lease is not None:
            return interval_within(job.lease.total_seconds())
        with self._lookup_lock:
            if self._heartbeat_intervals.has_expired:
                try:
                    self._heartbeat_intervals.update(self.job_types(timeout=LOOKUP_TIMEOUT_S))
                except JobStateError:
                    self._heartbeat_intervals.lookup_failed()
        return self._heartbeat_intervals.interval_s(job.job_type)

    def close(self) -> None:
        """Close the client. May be called from any thread.

        Watches end. Calls, waits and runs that are under way raise ``ClientClosed`` at once.
        """
        if self._lifetime.is_forked:
            # The threads and connections of the parent process do not exist here.
            return
        self._lifetime.is_closed = True
        self._closed.set()
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.close()
        self._timeouts.close()
        if self._made_report_sender is not None:
            self._made_report_sender.close()
        if self._channel_given is None and "_channel" in vars(self):
            self._channel.close()
        with self._lock:
            further = list(self._watch_channels.values())
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
        # Opened with the first call, so that a client made before a fork can be used after it.
        if self._channel_given is not None:
            return self._channel_given
        return open_channel(*self._channel_arguments)

    @property
    def _report_sender(self) -> ReportSender:
        with self._lock:
            if self._made_report_sender is None:
                owner = weakref.ref(self)
                self._made_report_sender = ReportSender(
                    self._stub("StreamUpdates"), self._lifetime, owner, self._timeouts
                )
            return self._made_report_sender

    def _stub(self, name: str) -> Any:
        self._lifetime.check()
        stub = self._stubs.get(name)
        return self._make_stub(name) if stub is None else stub

    def _make_stub(self, name: str) -> Any:
        with self._lock:
            self._stubs[name] = stub = new_stub(self._channel, name)
        return stub

    @contextmanager
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

    def _invoke(self, call: Call[R]) -> R:
        through_outages = call.through_outages or bool(self._call_options)
        retries = CallRetries(call.timeout_s(self._timeout_s), through_outages=through_outages)
        while True:
            try:
                with self._stub_for(call) as stub:
                    response = stub(call.request, timeout=retries.left_s(), **self._call_options)
            except grpc.RpcError as failure:
                if self._closed.is_set() and failure.code() is grpc.StatusCode.CANCELLED:
                    raise closed_during(call) from failure
                error = error_from_rpc(failure, call.request_id, call.arguments)
                self._report_late_usage(late_usage(call, error))
                wait = retries.wait_s(error)
            except ValueError as failure:
                # gRPC raises ValueError for a closed channel.
                raise closed_during(call) from failure
            else:
                return call.decode(response)
            self._closed.wait(wait)

    def _invoke_all(self, batches: Batches[T]) -> tuple[T, ...]:
        self._lifetime.check()
        with Made[T]() as made:
            for call in batches.calls:
                items: tuple[T, ...] = self._invoke(call)
                made.add(items)
        return made.items

    def _report_late_usage(self, late: Call[Any] | None) -> None:
        """Report the usage of a call that was refused because its attempt is over."""
        if late is None:
            return
        try:
            self._invoke(late)
        except JobStateError as error:
            log.warning("the usage of a refused report could not be reported (%s): %s", error, late.request)

    def _iterate(self, pages: Pages[T]) -> Iterator[T]:
        call: Call[Any] | None = pages.first
        while call is not None:
            page = self._invoke(call)
            yield from page.items
            call = pages.after(page)
