"""The composition root: builds the server from its settings, owns every part, starts and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import cast

import grpc
from grpc_channelz.v1 import channelz

from jobstate.v1 import job_service_pb2, maintenance_service_pb2
from jobstate_server.admin.probes import AdminPort, CannotListen
from jobstate_server.clock import Clock
from jobstate_server.config import Settings, is_loopback
from jobstate_server.domain.decide import Decider
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.due_timer import DueTimer
from jobstate_server.engine.membership import Membership
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.timekeeper import Timekeeper
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.reader import EventLog
from jobstate_server.event_log.recent import RecentEvents
from jobstate_server.event_log.replication import Replication
from jobstate_server.event_log.stored_pages import StoredPages
from jobstate_server.maintenance.check_health import HEALTHY, CheckHealth
from jobstate_server.maintenance.event_limit import EventLimit
from jobstate_server.maintenance.job_health import HealthLimits
from jobstate_server.maintenance.registry import MaintenanceLimits, Tasks
from jobstate_server.maintenance.run_locks import RunLocks
from jobstate_server.maintenance.schedule import Schedule
from jobstate_server.rpc.calls import Calls
from jobstate_server.rpc.health import SERVICE_NAME as HEALTH_SERVICE_NAME
from jobstate_server.rpc.health import HealthService
from jobstate_server.rpc.job_service import JobService
from jobstate_server.rpc.maintenance_service import MaintenanceService
from jobstate_server.rpc.reflection import SERVICE_NAMES as REFLECTION_NAMES
from jobstate_server.rpc.reflection import Reflection
from jobstate_server.rpc.transport import transport_options
from jobstate_server.store.base import Store
from jobstate_server.store.caches import shared_out
from jobstate_server.store.event_check import event_check
from jobstate_server.store.opening import clock_for, open_store, shown, with_password
from jobstate_server.store.records import TaskRun
from jobstate_server.supervision.supervisor import SILENT_TURNS_MAX, Supervisor
from jobstate_server.watch.session import WatchSessions
from jobstate_server.watch.snapshots import Snapshots
from jobstate_server.wire.documents import merge_metadata

log = logging.getLogger(__name__)

JOBS_HEALTH = "jobs"
"""Name under which gRPC health tells how the jobs are, apart from whether the service serves."""

SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    maintenance_service_pb2.DESCRIPTOR.services_by_name["MaintenanceService"],
)

READ_ANSWERS_S = 2.0
"""How long a stop waits for the last answers to be read, once all calls have been answered."""


class CannotServe(Exception):
    """The server cannot be started. The message tells an operator what to change."""


def _go_on(_why: str) -> None:
    """Leave a broken server as it is: it is a guest in somebody else's process, such as a test's."""


class _ByName:
    """A gRPC server for generated code to add services to, found by name only.

    Generated code also registers each method by itself. grpc.aio then waits for every registered method before every
    call, which with a dozen of them costs a tenth of what a call takes.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Leave it at the handlers that are found by name."""


class Server:
    """A jobstate server. Build, ``start``, and ``stop`` belong on one event loop."""

    def __init__(
        self, settings: Settings, clock: Clock | None = None, *, give_up: Callable[[str], None] = _go_on
    ) -> None:
        """Open the store and put everything together; nothing runs yet.

        Args:
            give_up: ends the process, when a part without which nothing is answered has died. Told why, on any thread.

        Raises:
            CannotOpen: the store cannot be opened.
        """
        self._settings = settings
        self.clock = clock or clock_for(settings.store)
        url = with_password(settings.store, settings.store_password_file)
        self.store: Store = open_store(url, self.clock, settings.cache_bytes)
        self.replica = f"{socket.gethostname()[:64]}-{secrets.token_hex(4)}"
        """Names this server among those that share its store."""
        self.address = ""
        """HOST:PORT once started."""
        self._grpc: grpc.aio.Server | None = None
        self.health_service = HealthService()
        self.admin_port: AdminPort | None = None
        self._build()
        of_replicas = () if self.replication is None else (self.membership, self.replication)
        self.supervisor = Supervisor(
            self.committer,
            self.readers,
            self.catch_up_readers,
            restartable=() if self.replication is None else (self.replication,),
            ageing=(
                self.event_limit,
                self.due_timer,
                self.schedule,
                self.timekeeper,
                self.connections,
                *of_replicas,
            ),
            on_health=self._on_health,
            probe=self._look_at_jobs_health,
            give_up=give_up,
        )
        self.committer.on_reachable = self.supervisor.on_reachable

    def _build(self) -> None:
        settings, clock, store = self._settings, self.clock, self.store
        job_types = settings.policies()
        reader = store.open_reader()
        try:
            state = reader.log_state()
            last = reader.event(state.head)
        finally:
            reader.close()
        decider = Decider(job_types, merge_metadata, random.random, unnamed_types_max=settings.max_job_types)
        head_check = state.horizon_check if last is None else event_check(last.payload)
        recent = RecentEvents(state.head, head_check, shared_out(settings.cache_bytes).recent_events)
        self.feed = EventFeed(store.log_id, recent, clock)
        self.catch_up_readers = Readers(store, threads=1, name="catch-up-reader")
        notifier = store.open_notifier()
        self.replication = (
            None
            if notifier is None
            else Replication(notifier, self.feed, self.catch_up_readers, reopen=store.open_notifier)
        )
        published = self.replication or self.feed
        self.timekeeper = Timekeeper(clock)
        limits = {"restart_grace": settings.restart_grace, "request_ids_max": settings.request_ids_max}
        self.committer = Committer(store, decider, clock, published, **limits, replica=self.replica)
        self.due_timer = DueTimer(self.committer, clock)
        self.readers = Readers(store)
        self.membership = Membership(self.replica, self.committer, clock)
        if self.replication is not None:
            self.replication.on_due = self.due_timer.hear
        self.calls = Calls(open_streams_max=settings.open_streams_max, requests_bytes_max=settings.requests_bytes_max)
        self.connections = self.calls.admission.connections
        self.connections.count_as_used(lambda: self.health_service.watching)
        refresh = None if self.replication is None else self.replication.refresh
        event_log = EventLog(self.feed, StoredPages(self.catch_up_readers, store.log_id), refresh)
        self.snapshots = Snapshots(self.catch_up_readers)
        watching = WatchSessions(event_log, self.snapshots)
        self.job_service = JobService(self.committer, self.readers, watching, job_types, clock)
        self._build_maintenance(job_types)

    def _build_maintenance(self, job_types: JobTypes) -> None:
        settings = self._settings
        limits = MaintenanceLimits(
            job_retention=settings.job_retention,
            event_retention=settings.event_retention,
            event_retention_bytes=settings.event_retention_bytes,
            health=HealthLimits(
                failure_rate_max=settings.health_failure_rate_max,
                failures_judged_min=settings.health_failures_judged_min,
                unworked_max=settings.health_unworked_max,
                overdue_max=settings.health_overdue_max,
                commit_latency_max=settings.health_commit_latency_max,
            ),
        )
        self.tasks = Tasks(
            settings.schedules,
            limits,
            self.committer,
            self.readers,
            self.clock,
            job_types=job_types,
            on_jobs_health=self._on_jobs_health,
        )
        self.event_limit = EventLimit(
            self.committer, self.readers, event_retention_bytes=settings.event_retention_bytes
        )
        self.run_locks = RunLocks()
        self.schedule = Schedule(
            self.tasks.all,
            self.committer,
            self.readers,
            self.clock,
            replica=self.replica,
            is_shared=self.replication is not None,
            run_locks=self.run_locks,
        )
        self.maintenance_service = MaintenanceService(self.tasks, self.schedule, self.run_locks)

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            CannotServe: the address cannot be listened on.
        """
        host, port = self._settings.address()
        self._grpc = self._build_grpc(host)
        try:
            bound = self._listen(self._grpc, host, port)
            self._listen_for_probes()
        except CannotServe:
            self.store.close()
            raise
        self.supervisor.start()
        self.timekeeper.start()
        self.committer.start()
        self.readers.start()
        self.catch_up_readers.start()
        if self.replication is not None:
            self.replication.start()
            self.membership.start()
        self.due_timer.start()
        try:
            await self.schedule.start()
        except JobStateError as error:
            why = self.readers.trouble or error.message
            # Its threads would outlive the event loop that they hand their results to.
            await self.stop()
            raise CannotServe(f"cannot start: {why}") from error
        await self.supervisor.probe_store()
        await self._grpc.start()
        self._on_health(self.supervisor.health.is_serving)
        self.health_service.set(JOBS_HEALTH, True)
        await asyncio.wait((self._look_at_jobs_health(),), timeout=SILENT_TURNS_MAX)
        self.address = _joined(host, bound)
        self.connections.port = bound
        log.info(
            "serving", extra={"address": self.address, "store": shown(self._settings.store), "log": self.store.log_id}
        )

    def _build_grpc(self, host: str) -> grpc.aio.Server:
        server = grpc.aio.server(options=transport_options())
        for service, servicer in zip(SERVICES, (self.job_service, self.maintenance_service), strict=True):
            self.calls.register(server, service, servicer)
        by_name = cast("grpc.aio.Server", _ByName(server))
        self.health_service.register(server)
        names = [service.full_name for service in SERVICES] + [HEALTH_SERVICE_NAME, *REFLECTION_NAMES]
        offer_channelz = self._settings.channelz
        if offer_channelz if offer_channelz is not None else is_loopback(host):
            channelz.add_channelz_servicer(by_name)
            names.append("grpc.channelz.v1.Channelz")
        self._reflection = Reflection(names)
        self._reflection.register(server)
        return server

    def _listen_for_probes(self) -> None:
        address = self._settings.admin_address()
        if address is None:
            return
        try:
            self.admin_port = AdminPort(*address, self.supervisor)
        except CannotListen as error:
            raise CannotServe(str(error)) from error
        self.supervisor.watchdog.add_restartable(self.admin_port)
        self.supervisor.watchdog.add_ageing(self.admin_port)
        self.admin_port.start()
        log.info("answering probes", extra={"address": _joined(address[0], self.admin_port.port)})

    @staticmethod
    def _listen(server: grpc.aio.Server, host: str, port: int) -> int:
        address = _joined(host, port)
        # gRPC would say that it failed but not why, and print lines of its own.
        _check_address(host, port)
        try:
            return server.add_insecure_port(address)
        except RuntimeError as error:
            raise CannotServe(f"cannot listen on {address}; choose another with --listen") from error

    async def stop(self) -> None:
        """Stop within the shutdown grace: every answered change is durable, every watcher knows where to go on.

        Stopping a second time does nothing.
        """
        if self._grpc is None:
            return
        server, self._grpc = self._grpc, None
        log.info("stopping", extra={"watchers": self.feed.watchers, "backlog": self.committer.backlog})
        self.supervisor.stop()
        self.health_service.drain()
        self._reflection.drain()
        self.timekeeper.stop()
        self.due_timer.stop()
        self.feed.drain()
        self.job_service.drain()
        await self._end_calls(server)
        await asyncio.gather(self.schedule.stop(), self.event_limit.stop())
        if self.replication is not None:
            await asyncio.gather(self.membership.stop(), self.replication.stop())
        ends = await asyncio.gather(self.committer.stop(), self.readers.stop(), self.catch_up_readers.stop())
        if all(ends):
            self.store.close()
        if self.admin_port is not None:
            await asyncio.to_thread(self.admin_port.stop)
        log.info("stopped", extra={"commits": self.committer.counters.commits})

    async def _end_calls(self, server: grpc.aio.Server) -> None:
        stopping = asyncio.create_task(server.stop(self._settings.shutdown_grace / SECOND))
        idle = asyncio.create_task(self.calls.idle())
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        # All has been answered: what is still open is not being read.
        await asyncio.wait((stopping,), timeout=READ_ANSWERS_S)
        if not stopping.done():
            stopping.cancel()
            await server.stop(None)
        await idle

    def _on_health(self, reachable: bool) -> None:
        for name in ("", *(service.full_name for service in SERVICES)):
            self.health_service.set(name, reachable)

    def _on_jobs_health(self, is_well: bool) -> None:
        self.health_service.set(JOBS_HEALTH, is_well)

    def _look_at_jobs_health(self) -> asyncio.Future[Mapping[str, TaskRun]]:
        """Tell of the jobs what the latest check-health found, on whichever replica it ran, and before a restart."""
        looked = self.readers.run(lambda reader: reader.task_runs())
        looked.add_done_callback(self._take_jobs_health)
        return looked

    def _take_jobs_health(self, looked: asyncio.Future[Mapping[str, TaskRun]]) -> None:
        if looked.cancelled() or looked.exception() is not None:
            return
        run = looked.result().get(CheckHealth.name)
        if run is not None and run.outcome and self._grpc is not None:
            self._on_jobs_health(run.outcome == HEALTHY)


def _joined(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_address(host: str, port: int) -> None:
    """Ask the system whether the address can be listened on. Raises CannotServe with the system's reason."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As gRPC does: a port whose last connections are still dying can be taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotServe(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --listen") from error
