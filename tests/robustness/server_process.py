"""A server of its own process, made to be mistreated: a clock that others move, and everything small that can be.

With few recent events, small pages and short retention a run of seconds passes all the edges that a real server meets
in weeks: falling back from recent events to the log, pages that end in the middle, compaction under a reader.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import os
import signal
import struct
from pathlib import Path
from typing import Any

import uvloop

from jobstate_server import logs
from jobstate_server.app import Server
from jobstate_server.clock import Clock, SystemClock
from jobstate_server.config import Settings
from jobstate_server.domain import limits
from jobstate_server.domain.durations import MILLISECOND
from jobstate_server.domain.rules import release as release_rules
from jobstate_server.event_log.pages import PageLimits
from jobstate_server.event_log.recent import RecentEvents
from jobstate_server.process import GAVE_UP, collect_rarely
from jobstate_server.rpc.requests import dispatch as dispatch_requests
from jobstate_server.store.reading import events as event_reads
from jobstate_server.store.urls import is_postgres

from ..support.server import QUIET
from .history import Policy
from .recording import policy_of
from .recurrences import RECURRING
from .sabotage import sabotage

OFFSET = struct.Struct("=q")

JOB_TYPES: dict[str, dict[str, Any]] = {
    "quick": {
        "max_retries": 3,
        "timeout": "400ms",
        "base_delay": "50ms",
        "max_delay": "200ms",
        "stale_threshold": "1s",
        "jitter": 0.5,
    },
    "resting": {"max_retries": 5, "timeout": "none", "base_delay": "20ms", "max_delay": "100ms", "auto_retry": False},
    "steady": {"max_retries": 2, "timeout": "none", "base_delay": "100ms", "max_delay": "1s", "stale_threshold": "2s"},
}
"""Job types whose retries, timeouts and silences pass within a run."""

DISPATCHED: dict[str, dict[str, Any]] = {
    "ranked": {
        "max_retries": 3,
        "timeout": "none",
        "base_delay": "50ms",
        "max_delay": "200ms",
        "stale_threshold": "3s",
        "priority_step": "300ms",
    },
    "strict": {"max_retries": 2, "timeout": "1500ms", "base_delay": "20ms", "max_delay": "1s", "jitter": 0.3},
    "scarce": {"timeout": "none", "base_delay": "20ms", "max_delay": "50ms"},
    "returned": {"max_retries": 4, "timeout": "none", "base_delay": "20ms", "max_delay": "50ms", "priority_step": "0s"},
}
"""Job types that workers acquire. Priorities of the first are worth as much as jobs wait in a run, of the second more,
of the last nothing."""

LANED: dict[str, dict[str, Any]] = {
    "shared": {"timeout": "none", "base_delay": "20ms", "max_delay": "50ms", "priority_step": "300ms"},
    "narrow": {
        "timeout": "none",
        "base_delay": "20ms",
        "max_delay": "100ms",
        "concurrency": 4,
        "lane_concurrency": 2,
        "lane_from": "source_id",
    },
    "orderly": {
        "max_retries": 2,
        "timeout": "none",
        "base_delay": "100ms",
        "max_delay": "400ms",
        "lane_concurrency": 1,
        "lane_holds": "job",
    },
    "paced": {"timeout": "none", "rate": "20/1s", "burst": 4, "lane_rate": "6/1s", "lane_burst": 2},
}
"""Job types with lanes: only that, with places for few, with places that are kept while a job waits, and with rates."""

GROUPED: dict[str, dict[str, Any]] = {"grouped": {"timeout": "300ms", "stale_threshold": "1s"}}
"""Job types of groups: what ends the attempts of others does not end theirs."""

CHANGED: dict[str, dict[str, Any]] = {
    "ranked": {"priority_step": "2s"},
    "shared": {"concurrency": 6, "lane_from": "source_id"},
    "narrow": {"concurrency": 2, "lane_concurrency": 3, "lane_from": "none"},
    "orderly": {"lane_concurrency": 2, "lane_holds": "attempt"},
    "paced": {"rate": "12/1s", "burst": 2, "lane_rate": "none"},
}
"""What an operator changes about them, and back again."""

_PLAIN = JOB_TYPES | DISPATCHED | LANED | GROUPED

CONFIGURATIONS = (_PLAIN, {name: policy | CHANGED.get(name, {}) for name, policy in _PLAIN.items()})
"""The job types that a server is started with, by number."""

RECURRING_ENTRIES: list[dict[str, Any]] = [
    {
        "name": RECURRING,
        "schedule": "* * * * *",
        "job_type": "ranked",
        "source_id": "source-1",
        "labels": {"tenant": "acme"},
        "metadata": {"delay_us": 0},
    }
]
"""What the servers of a torture create by themselves. An instant comes whenever the clock is set forward, and servers
start then."""

LEASE_MIN = 200 * MILLISECOND
RELEASES_MAX = 6

EVENTS_AT_ONCE = 40
RECENT_BYTES = 64 * 1024
RETENTION_BYTES = 128 * 1024

FLUSH_S = 2.0
"""How long the end of a server of which a part has died waits for its log to be written."""

EVERY_MINUTE = "* * * * *"

SHARED_TASKS = {**QUIET, "check_stale": EVERY_MINUTE, "retry_failed": EVERY_MINUTE, "cleanup": EVERY_MINUTE}
"""Tasks that replicas take from each other."""


class MovedClock(SystemClock):
    """The machine's clocks, of which the wall clock is moved by what a shared file says."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), OFFSET.size)
        super().__init__()

    def _wall(self) -> int:
        (offset,) = OFFSET.unpack(self._offset[:])
        return super()._wall() + int(offset)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings of this server."""
    values: dict[str, Any] = {
        "listen": options.listen,
        "store": options.store,
        "schedules": SHARED_TASKS if is_postgres(options.store) and not options.still else QUIET,
        "job_types": CONFIGURATIONS[options.configuration],
        "recurring": RECURRING_ENTRIES if options.recurring else [],
        "event_retention": "1min",
        "restart_grace": "200ms",
        "shutdown_grace": f"{options.grace}s",
    }
    return Settings(**values)


def policies(configuration: int = 0) -> dict[str, Policy]:
    """The policies of the job types of a run, as a judge needs them."""
    values: dict[str, Any] = {"job_types": CONFIGURATIONS[configuration]}
    kinds = Settings(**values).policies()
    return {each.name: policy_of(each) for each in kinds.all()}


def make_everything_small(server: Server) -> None:
    """Lower limits that have no setting, because nobody but a test gains by lowering them."""
    recent = server.feed.recent
    server.feed.recent = RecentEvents(recent.head, recent.head_check, RECENT_BYTES)
    lowered: list[tuple[object, str, Any]] = [
        (server.feed, "page_limits", PageLimits(events=EVENTS_AT_ONCE)),
        (server.snapshots, "jobs_max", EVENTS_AT_ONCE),
        (event_reads, "EVENTS_SCANNED_MAX", 3 * EVENTS_AT_ONCE),
        (limits, "HEARTBEAT_MIN", 20 * MILLISECOND),
        (limits, "START_WITHIN_MIN", 100 * MILLISECOND),
        (dispatch_requests, "LEASE_MIN", LEASE_MIN),
        (release_rules, "RELEASES_MAX", RELEASES_MAX),
        (server.tasks.cleanup, "_event_retention_bytes", RETENTION_BYTES),
    ]
    for owner, name, value in lowered:
        assert hasattr(owner, name), name
        setattr(owner, name, value)


def clock_of(options: argparse.Namespace) -> Clock | None:
    """The clock that others move, if one was given. With PostgreSQL it is PostgreSQL's clock that they move."""
    return MovedClock(options.clock) if options.clock and not is_postgres(options.store) else None


def leave_what_is_due(server: Server) -> None:
    """Serve nothing that falls due, so that what is read in the end stays as it is."""
    # The watchdog would restart a timer that serves nothing.
    server.due_timer.serve_due = lambda: None  # type: ignore[method-assign]
    server.due_timer.turn = lambda: None  # type: ignore[method-assign]


def build(options: argparse.Namespace, writer: logs.Writer) -> Server:
    """The server, not yet started."""

    def give_up(_why: str) -> None:
        writer.flush(FLUSH_S)
        os._exit(GAVE_UP)

    server = Server(settings_of(options), clock_of(options), give_up=give_up)
    if options.small:
        make_everything_small(server)
    if options.still:
        leave_what_is_due(server)
    return server


async def serve(options: argparse.Namespace, writer: logs.Writer) -> None:
    """Serve until SIGTERM."""
    signalled = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signalled.set)
    server = build(options, writer)
    if options.sabotage:
        told: Path = options.sabotage
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: sabotage(server, told.read_text()))
    await server.start()
    collect_rarely()
    print(f"jobstate: serving on {server.address}", flush=True)
    await signalled.wait()
    await server.stop()


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--clock", type=Path)
    parser.add_argument("--configuration", type=int, default=0)
    parser.add_argument("--grace", type=float, default=2.0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--still", action="store_true")
    parser.add_argument("--recurring", action="store_true")
    parser.add_argument("--sabotage", type=Path)
    writer = logs.configure("text", "info")
    uvloop.run(serve(parser.parse_args(), writer))


if __name__ == "__main__":
    main()
