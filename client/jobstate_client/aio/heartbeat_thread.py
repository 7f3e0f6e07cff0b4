"""Sends heartbeats from a thread while the event loop of an asyncio client is blocked.

A handler that computes, or makes a blocking call, stops everything on its event loop, heartbeats too. The server would
then consider all runs of the process dead. The thread only checks that the loop responds, until it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core.attempt_reports import AttemptReports
from jobstate_client.core.calls import RPCS
from jobstate_client.core.report_queue import BATCH_UPDATES_MAX

log = logging.getLogger("jobstate_client")

CHECK_S_MAX = 5.0
"""Longest time between two checks."""

CHECK_S_MIN = 0.05
"""Shortest time between two checks."""

CHECKS_PER_HEARTBEAT = 3
"""Checks within the shortest heartbeat interval: one asks the loop, the next finds no answer, and one may be late."""

SEND_TIMEOUT_S = 5.0
"""How long sending heartbeats may take."""


class HeartbeatThread:
    """Sends heartbeats for the runs of one client. The thread ends when no run is left, or the loop is closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        attempts: Callable[[], Iterable[AttemptReports]],
        connect: Callable[[], grpc.Channel] | None,
    ) -> None:
        """Start nothing yet.

        Args:
            loop: the client's.
            attempts: returns the runs; called from the thread.
            connect: opens a channel for threads; None if that is not possible: the thread then only logs a warning.
        """
        self._loop = loop
        self._attempts = attempts
        self._connect = connect
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._loop_responded = threading.Event()
        """Whether the loop has responded since it was last asked."""
        self._asked_at = 0.0
        self._warned_at = -1.0
        """The ``_asked_at`` of the last warning: one warning is enough for as long as the loop is blocked."""

    def keep_running(self) -> None:
        """Start the thread if it does not run: there is a run to send heartbeats for."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._ending = threading.Event()
            self._thread = threading.Thread(
                target=self._serve, args=[self._ending], name="jobstate-heartbeats", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ending.set()

    def _serve(self, ending: threading.Event) -> None:
        self._loop_responded.set()
        channel: grpc.Channel | None = None
        try:
            while not self._loop.is_closed() and not ending.wait(self._check_interval_s()):
                channel = self._check(channel)
                with self._lock:
                    if not self._with_heartbeats():
                        self._thread = None
                        return
        except Exception:
            log.exception("the thread that sends heartbeats while the event loop is blocked has died")
        finally:
            if channel is not None:
                channel.close()

    def _check(self, channel: grpc.Channel | None) -> grpc.Channel | None:
        """Ask the loop to respond, or send the heartbeats that are due if it has not responded since the last check.

        Returns the channel for the next check.
        """
        if self._loop_responded.is_set():
            self._ask_loop()
        elif overdue := self._overdue():
            if channel is None and self._connect is not None:
                channel = self._connect()
            self._send_heartbeats(channel, overdue)
        return channel

    def _with_heartbeats(self) -> list[AttemptReports]:
        return [reports for reports in self._attempts() if reports.heartbeat_s is not None and not reports.is_over]

    def _check_interval_s(self) -> float:
        shortest = min((reports.heartbeat_s or CHECK_S_MAX for reports in self._with_heartbeats()), default=CHECK_S_MAX)
        return max(CHECK_S_MIN, min(CHECK_S_MAX, shortest / CHECKS_PER_HEARTBEAT))

    def _ask_loop(self) -> None:
        """Ask the loop to respond."""
        self._loop_responded.clear()
        self._asked_at = time.monotonic()
        with contextlib.suppress(RuntimeError):
            # The loop was closed at this very moment.
            self._loop.call_soon_threadsafe(self._loop_responded.set)

    def _overdue(self) -> list[AttemptReports]:
        """All runs, as soon as the heartbeat of one is due: one batch carries them all."""
        now, attempts = time.monotonic(), self._with_heartbeats()
        is_due = any(now - reports.last_sent_at >= (reports.heartbeat_s or 0.0) for reports in attempts)
        return attempts if is_due else []

    def _send_heartbeats(self, channel: grpc.Channel | None, attempts: list[AttemptReports]) -> None:
        now = time.monotonic()
        for reports in attempts:
            reports.last_sent_at = now
        if self._warned_at != self._asked_at:
            self._warned_at = self._asked_at
            log.warning(
                "the event loop has been blocked for %.1f s, and the heartbeats of %d runs are due: %s. Move what"
                " blocks it into asyncio.to_thread; reports, watches and other handlers wait for it too",
                now - self._asked_at,
                len(attempts),
                "their attempts may go stale" if channel is None else "a thread sends them",
            )
        if channel is not None:
            self._send(channel, attempts)

    @staticmethod
    def _send(channel: grpc.Channel, attempts: list[AttemptReports]) -> None:
        rpc = RPCS["StreamUpdates"]
        send: Any = channel.stream_stream(
            rpc.path,
            request_serializer=rpc.request_type.SerializeToString,
            response_deserializer=rpc.response_type.FromString,
        )
        updates = [pb.JobUpdate(progress=reports.heartbeat()) for reports in attempts]
        batches = [
            pb.StreamUpdatesRequest(batch=first, updates=updates[first : first + BATCH_UPDATES_MAX])
            for first in range(0, len(updates), BATCH_UPDATES_MAX)
        ]
        try:
            # Refusals are ignored here: the event loop gets them for its own reports.
            for _ in send(iter(batches), timeout=SEND_TIMEOUT_S):
                pass
        except grpc.RpcError as error:
            log.info("heartbeats could not be sent from the thread: %s", error)
