"""A server process of which one part breaks: ``python -m tests.support.faulty_server PART FAULT serve ...``.

The part breaks at its next turn after somebody asked for a job of the name ``arm``; standard output then says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobstate_server import cli, clock, logs
from jobstate_server.admin import probes
from jobstate_server.domain.durations import MILLISECOND
from jobstate_server.engine import committer, downtime, membership, readers
from jobstate_server.engine.acquires import Acquires
from jobstate_server.engine.due_timer import DueTimer
from jobstate_server.engine.read_queue import QueuedRead, ReadQueue
from jobstate_server.engine.write_queue import QueuedCommands, WriteQueue
from jobstate_server.engine.writer import Writer
from jobstate_server.event_log import listener
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.reader import EventReader
from jobstate_server.maintenance import event_limit, schedule
from jobstate_server.rpc import update_stream
from jobstate_server.rpc.health import HealthService
from jobstate_server.rpc.job_service import JobService
from jobstate_server.rpc.receive_buffers import ReceiveBuffers
from jobstate_server.store.postgres.notifier import PostgresNotifier
from jobstate_server.supervision.watchdog import Watchdog

log = logging.getLogger(__name__)

DIES, HANGS = "dies", "hangs"

ARM = "arm"
"""The job whose creation arms the fault."""

BROKEN = "fault: "
"""How the line begins that says that the part has broken."""


class Broken(Exception):
    """Nothing of the server's own."""


@dataclass(frozen=True)
class Turn:
    """The method of a part that is called again and again, and how it breaks."""

    owner: Any
    method: str
    breaks: Callable[[str], Any]
    is_of: Callable[..., bool] = lambda *_: True
    """Whether a call of the method is this part's: others may be of the same class."""


def thread(fault: str) -> None:
    """A thread ends, or waits for ever."""
    if fault == DIES:
        raise SystemExit("a thread is made to die")
    threading.Event().wait()


def callback(fault: str) -> None:
    """A callback of the event loop fails, or blocks the loop."""
    if fault == DIES:
        raise Broken
    threading.Event().wait()


def timer(fault: str) -> None:
    """A callback that is to start the next timer fails, or returns without having done so."""
    if fault == DIES:
        raise Broken


async def task(fault: str) -> None:
    """A task fails, or waits for ever."""
    if fault == DIES:
        raise Broken
    await asyncio.Event().wait()


def in_thread(prefix: str) -> Callable[..., bool]:
    """Whether a call is made in a thread whose name begins so."""
    return lambda *_: threading.current_thread().name.startswith(prefix)


PARTS = {
    "committer": Turn(Writer, "commit", thread),
    "delivery": Turn(EventFeed, "publish", callback),
    "results": Turn(QueuedCommands, "resolve", callback),
    "hand-over": Turn(WriteQueue, "take", callback),
    "gets": Turn(ReadQueue, "put", callback, lambda _, read: read.is_batch),
    "what was read": Turn(QueuedRead, "resolve", callback, lambda read, _: read.is_batch),
    "loop": Turn(JobService, "Get", callback),
    "reader": Turn(readers, "_read", thread, in_thread("reader-")),
    "catch-up reader": Turn(readers, "_read", thread, in_thread("catch-up")),
    "look for ready jobs": Turn(Acquires, "_alarm_rang", timer),
    "due timer": Turn(DueTimer, "_timer_ended", timer),
    "schedule": Turn(schedule.Schedule, "_run_due", timer),
    "event limit": Turn(event_limit.EventLimit, "trim", task),
    "turn": Turn(event_limit.EventLimit, "turn", callback),
    "timekeeper": Turn(clock._Turns, "_run", timer),
    "log writer": Turn(logs.Writer, "_write", thread),
    "admin port": Turn(probes._Server, "service_actions", thread),
    "receive buffers": Turn(ReceiveBuffers, "check", thread),
    "watchdog": Turn(Watchdog, "take_turn", thread),
    "health watch": Turn(HealthService, "_send_changes", task),
    "update stream": Turn(update_stream._Batch, "submit", task),
    "watch": Turn(EventReader, "next_page", task),
    "notifier": Turn(PostgresNotifier, "wait", thread),
    "membership": Turn(membership.Membership, "_renew", timer),
}


OF_REPLICAS = {"notifier", "membership"}
"""Parts that only a server on PostgreSQL has."""


def break_at_next_turn(turn: Turn, fault: str, armed: threading.Event) -> None:
    """Let the part's next turn, once armed, go wrong."""
    original = getattr(turn.owner, turn.method)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if armed.is_set() and turn.is_of(self, *args):
            armed.clear()
            os.write(logs.STDOUT, f"{BROKEN}{turn.method} {fault}\n".encode())
            return turn.breaks(fault)
        return original(self, *args, **kwargs)

    setattr(turn.owner, turn.method, method)


def arm_on_request(armed: threading.Event) -> None:
    """Arm the fault when the job is asked for."""
    create = JobService.Create

    def creating(self: Any, request: Any, *args: Any) -> Any:
        if request.id == ARM:
            armed.set()
            # The writer of the log has a turn only when there is something to write.
            log.warning("armed")
        return create(self, request, *args)

    setattr(JobService, "Create", creating)  # noqa: B010 - mypy knows no method that may be replaced


def make_haste() -> None:
    """Parts that turn every half minute would break long after they are armed, and be given up longer after that."""
    schedule.CHECK_INTERVAL = 500 * MILLISECOND
    vars(membership)["RENEW_INTERVAL"] = downtime.RENEW_INTERVAL // 4
    event_limit.CHECK_TURNS = event_limit.STUCK_TURNS = 1
    listener.STUCK_TURNS = 5
    committer.WAIT_TURNS_MAX = readers.WAIT_TURNS_MAX = 8


def main() -> int:
    """Read the command line, and serve."""
    part, fault = sys.argv[1:3]
    armed = threading.Event()
    arm_on_request(armed)
    break_at_next_turn(PARTS[part], fault, armed)
    make_haste()
    return cli.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
