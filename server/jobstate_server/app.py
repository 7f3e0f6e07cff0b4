"""The composition root: builds the server from its settings, owns every part, and starts and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import closing

from jobstate_server.admin.probes import AdminPort, CannotListen
from jobstate_server.clock import Clock
from jobstate_server.config import Settings, is_loopback
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.engine.acquires import Acquires
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
from jobstate_server.maintenance.erase import Erase
from jobstate_server.maintenance.event_limit import EventLimit
from jobstate_server.maintenance.recurring import RecurringJobs
from jobstate_server.maintenance.registry import Tasks
from jobstate_server.maintenance.run_locks import RunLocks
from jobstate_server.maintenance.schedule import Schedule
from jobstate_server.rpc.dispatch_service import DispatchService
from jobstate_server.rpc.job_service import JobService
from jobstate_server.rpc.maintenance_service import MaintenanceService
from jobstate_server.rpc.server import AddressNotUsable, GrpcServer
from jobstate_server.store.base import Store
from jobstate_server.store.cache_sizes import cache_sizes_of
from jobstate_server.store.event_check import event_check
from jobstate_server.store.factory import clock_for, open_store
from jobstate_server.store.records import TaskRun
from jobstate_server.store.urls import redacted, with_password
from jobstate_server.supervision.supervisor import SILENT_TURNS_MAX, Supervisor
from jobstate_server.supervision.watchdog import Ageing
from jobstate_server.watch.session import WatchSessions
from jobstate_server.watch.snapshots import Snapshots
from jobstate_server.wire.documents import merge_metadata

log = logging.getLogger(__name__)

JOBS_HEALTH = "jobs"
"""The name under which gRPC health reports the health of the jobs, independently of that of the service."""


class CannotServe(Exception):
    """The server cannot start. The message says what to change."""


def _ignore(_why: str) -> None:
    """Do nothing about a broken server, because the process is not its own, for example a test's."""


class Server:
    """A jobstate server. Build, start and stop it on one event loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        *,
        give_up: Callable[[str], None] = _ignore,
        log_problem: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Open the store and build all parts, without starting any.

        Args:
            give_up: ends the process when a vital part has died. Called with the reason, on any thread.
            log_problem: says why the process's log is not written, None when it is.

        Raises:
            CannotOpen: the store cannot be opened.
        """
        self._settings = settings
        self.clock = clock or clock_for(settings.store)
        url = with_password(settings.store, settings.store_password_file)
        self.store: Store = open_store(url, self.clock, settings.cache_bytes)
        self.replica = f"{socket.gethostname()[:64]}-{secrets.token_hex(4)}"
        """The name of this server among those that share its store."""
        self.address = ""
        """HOST:PORT after the start."""
        self._is_serving = False
        self._log_problem = log_problem
        self.admin_port: AdminPort | None = None
        self._build()
        of_replicas = () if self.replication is None else (self.membership, self.replication.listener)
        self.supervisor = Supervisor(
            self.committer,
            self.readers,
            self.catch_up_readers,
            restartable=(
                self.grpc.receive_buffers,
                *(() if self.replication is None else (self.replication.listener,)),
            ),
            ageing=(*self._timed_parts(), *of_replicas),
            on_health=self.grpc.set_serving,
            probe=self._read_jobs_health,
            give_up=give_up,
        )
        self.committer.store_state.changed.subscribe(self.supervisor.on_reachable)

    def _timed_parts(self) -> tuple[Ageing, ...]:
        return (
            self.event_limit,
            self.due_timer,
            self.schedule,
            self.recurring,
            self.timekeeper,
            self.grpc.connections,
            self.grpc.receive_buffers,
            self.grpc.resets,
            self.acquires,
        )

    def _build(self) -> None:
        settings, clock, store = self._settings, self.clock, self.store
        job_types = settings.policies()
        with closing(store.open_reader()) as reader:
            state = reader.log_state()
            last = reader.event(state.head)
        decider = Decider(job_types, merge_metadata, random.random, unnamed_types_max=settings.max_job_types)
        head_check = state.horizon_check if last is None else event_check(last)
        recent = RecentEvents(state.head, head_check, cache_sizes_of(settings.cache_bytes).recent_events)
        self.feed = EventFeed(store.log_id, recent, clock)
        self.catch_up_readers = Readers(store, threads=1, name="catch-up-reader")
        self.replication = self._new_replication()
        self.timekeeper = Timekeeper(clock)
        limits = {"restart_grace": settings.restart_grace, "request_ids_max": settings.request_ids_max}
        self.committer = Committer(
            store, decider, clock, **limits, replica=self.replica, is_shared=self.replication is not None
        )
        self.committer.events_written.subscribe((self.replication or self.feed).publish)
        self.due_timer = DueTimer(self.committer, clock)
        self.readers = Readers(store)
        self.acquires = Acquires(self.committer, clock, None if self.replication is None else self.readers)
        self.membership = Membership(self.replica, self.committer, self.due_timer, clock)
        if self.replication is not None:
            self.replication.due_written.subscribe(self.due_timer.note_other_replica)
            self.replication.jobs_ready.subscribe(self.acquires.jobs_ready)
        refresh = None if self.replication is None else self.replication.refresh
        event_log = EventLog(self.feed, StoredPages(self.catch_up_readers, store.log_id), refresh)
        self.snapshots = Snapshots(self.catch_up_readers)
        watching = WatchSessions(event_log, self.snapshots)
        self.job_service = JobService(self.committer, self.readers, watching, job_types, clock, self.acquires)
        self._build_maintenance(job_types)
        self.grpc = GrpcServer(
            self.job_service,
            self.maintenance_service,
            DispatchService(self.committer, self.readers, self.acquires, job_types, clock),
            open_streams_max=settings.open_streams_max,
            requests_bytes_max=settings.requests_bytes_max,
            cache_bytes=settings.cache_bytes,
        )

    def _new_replication(self) -> Replication | None:
        """What keeps this server up to date with the others on its store. None if the store has only one server."""
        notifier = self.store.open_notifier()
        if notifier is None:
            return None
        return Replication(notifier, self.feed, self.catch_up_readers, reopen=self.store.open_notifier)

    def _build_maintenance(self, job_types: JobTypes) -> None:
        settings = self._settings
        self.tasks = Tasks(
            settings.schedules,
            settings.maintenance_limits(),
            self.committer,
            self.readers,
            self.clock,
            due_timer=self.due_timer,
            job_types=job_types,
            on_jobs_health=self._on_jobs_health,
        )
        self.tasks.check_health.log_problem = self._log_problem
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
        self.recurring = RecurringJobs(
            settings.recurring_entries(), self.committer, self.readers, self.clock, replica=self.replica
        )
        forget = self.feed.forget if self.replication is None else self.replication.forget
        erase = Erase(self.committer, self.catch_up_readers, self.clock, forget)
        self.maintenance_service = MaintenanceService(self.tasks, self.schedule, self.recurring, self.run_locks, erase)

    async def start(self) -> None:
        """Start to serve.

        Raises:
            CannotServe: the server cannot listen on the address.
        """
        host, port = self._settings.address()
        self._is_serving = True
        try:
            bound = self._listen(host, port)
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
        self.acquires.start()
        try:
            await self.schedule.start()
        except JobStateError as error:
            why = self.readers.store_problem or error.message
            # Otherwise the threads would outlive the event loop to which they deliver their results.
            await self.stop()
            raise CannotServe(f"cannot start: {why}") from error
        self.recurring.start()
        await self.supervisor.probe_store()
        await self.grpc.start()
        self.grpc.set_serving(self.supervisor.health.is_serving)
        self._on_jobs_health(True)
        await asyncio.wait((self._read_jobs_health(),), timeout=SILENT_TURNS_MAX)
        self.address = _joined(host, bound)
        log.info(
            "serving",
            extra={"address": self.address, "store": redacted(self._settings.store), "log": self.store.log_id},
        )

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

    def _listen(self, host: str, port: int) -> int:
        offers_channelz = self._settings.channelz
        if offers_channelz is None:
            offers_channelz = is_loopback(host)
        try:
            return self.grpc.listen(host, port, with_channelz=offers_channelz)
        except AddressNotUsable as error:
            address = _joined(host, port)
            raise CannotServe(f"cannot listen on {address}: {error}; choose another with --listen") from error

    async def stop(self) -> None:
        """Stop within the shutdown grace: every answered change is durable, and every watcher has a cursor to resume.

        A second call does nothing.
        """
        if not self._is_serving:
            return
        self._is_serving = False
        log.info("stopping", extra={"watchers": self.feed.watchers, "backlog": self.committer.backlog})
        self.supervisor.stop()
        self.grpc.drain()
        self.timekeeper.stop()
        self.due_timer.stop()
        self.feed.drain()
        self.job_service.drain()
        await self.grpc.stop(self._settings.shutdown_grace / SECOND)
        await asyncio.gather(self.schedule.stop(), self.recurring.stop(), self.event_limit.stop())
        if self.replication is not None:
            await asyncio.gather(self.membership.stop(), self.replication.stop())
        ends = await asyncio.gather(self.committer.stop(), self.readers.stop(), self.catch_up_readers.stop())
        if all(ends):
            self.store.close()
        if self.admin_port is not None:
            await asyncio.to_thread(self.admin_port.stop)
        log.info("stopped", extra={"commits": self.committer.counters.commits})

    def _on_jobs_health(self, is_healthy: bool) -> None:
        self.grpc.health.set(JOBS_HEALTH, is_healthy)

    def _read_jobs_health(self) -> asyncio.Future[Mapping[str, TaskRun]]:
        """Report the outcome of the latest check-health, on whichever replica it ran, also before a restart."""
        task_runs = self.readers.run(lambda reader: reader.task_runs())
        task_runs.add_done_callback(self._report_jobs_health)
        return task_runs

    def _report_jobs_health(self, task_runs: asyncio.Future[Mapping[str, TaskRun]]) -> None:
        if task_runs.cancelled() or task_runs.exception() is not None:
            return
        run = task_runs.result().get(CheckHealth.name)
        if run is not None and run.outcome and self._is_serving:
            self._on_jobs_health(run.outcome == HEALTHY)


def _joined(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
