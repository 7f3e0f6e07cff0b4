"""Heartbeats from a thread, while the event loop of an asyncio client does not turn.

A handler that computes, or calls what blocks, holds up everything on its loop, heartbeats too; the server would take
all of its process's runs for dead. The thread only looks whether the loop turns, until it does not.
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
from jobstate_client.core.calls import RPCS
from jobstate_client.core.report_queue import BATCH_UPDATES_MAX, AttemptReports

log = logging.getLogger("jobstate_client")

LOOK_S = 5.0
"""Longest time between two looks."""

LOOK_S_MIN = 0.05

SEND_S = 5.0
"""How long sending heartbeats may take."""


class HeartbeatThread:
    """Looks after the runs of one client. The thread ends when there is none left, or the loop is closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lines: Callable[[], Iterable[AttemptReports]],
        connect: Callable[[], grpc.Channel] | None,
    ) -> None:
        """Begin nothing yet.

        Args:
            loop: the client's.
            lines: the runs as they are, asked from any thread.
            connect: makes a channel for threads; None when there is no way to, and the warning has to do.
        """
        self._loop = loop
        self._lines = lines
        self._connect = connect
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._turned = threading.Event()
        """Whether the loop has answered since it was last asked."""
        self._asked_at = 0.0
        self._warned_of = -1.0
        """When the loop was asked that was warned of: once is enough for as long as it does not turn."""

    def watch(self) -> None:
        """There is a run to look after."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._ending = threading.Event()
            self._thread = threading.Thread(target=self._look, args=[self._ending], name="jobstate-pulse", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ending.set()

    def _look(self, ending: threading.Event) -> None:
        self._turned.set()
        channel: grpc.Channel | None = None
        try:
            while not self._loop.is_closed() and not ending.wait(self._pause_s()):
                if self._turned.is_set():
                    self._ask()
                elif overdue := self._overdue():
                    if channel is None and self._connect is not None:
                        channel = self._connect()
                    self._beat(channel, overdue)
                with self._lock:
                    if not self._beating():
                        self._thread = None
                        return
        except Exception:
            log.exception("the thread that sends the heartbeats of a blocked event loop has died; the next run has one")
        finally:
            if channel is not None:
                channel.close()

    def _beating(self) -> list[AttemptReports]:
        return [line for line in self._lines() if line.heartbeat_s is not None and not line.is_over]

    def _pause_s(self) -> float:
        pause = min((line.heartbeat_s or LOOK_S for line in self._beating()), default=LOOK_S) / 3
        return max(LOOK_S_MIN, min(LOOK_S, pause))

    def _ask(self) -> None:
        """Have the loop say that it turns."""
        self._turned.clear()
        self._asked_at = time.monotonic()
        with contextlib.suppress(RuntimeError):
            # Closed this very moment.
            self._loop.call_soon_threadsafe(self._turned.set)

    def _overdue(self) -> list[AttemptReports]:
        """All runs, once one of them is due: one batch takes them all."""
        now, lines = time.monotonic(), self._beating()
        return lines if any(now - line.last_sent_at >= (line.heartbeat_s or 0.0) for line in lines) else []

    def _beat(self, channel: grpc.Channel | None, lines: list[AttemptReports]) -> None:
        now = time.monotonic()
        for line in lines:
            line.last_sent_at = now
        if self._warned_of != self._asked_at:
            self._warned_of = self._asked_at
            log.warning(
                "the event loop has not turned for %.1f s, and the heartbeats of %d runs are due: %s. Move what blocks"
                " it into asyncio.to_thread; reports, watches and other handlers wait for it too",
                now - self._asked_at,
                len(lines),
                "their attempts may be taken for stale" if channel is None else "a thread sends them",
            )
        if channel is not None:
            self._send(channel, lines)

    @staticmethod
    def _send(channel: grpc.Channel, lines: list[AttemptReports]) -> None:
        rpc = RPCS["StreamUpdates"]
        send: Any = channel.stream_stream(
            rpc.path,
            request_serializer=rpc.request_type.SerializeToString,
            response_deserializer=rpc.response_type.FromString,
        )
        beats = [pb.UpdateProgressRequest(id=line.job_id, attempt=line.attempt) for line in lines]
        batches = [
            pb.StreamUpdatesRequest(
                batch=first, updates=[pb.JobUpdate(progress=beat) for beat in beats[first : first + BATCH_UPDATES_MAX]]
            )
            for first in range(0, len(beats), BATCH_UPDATES_MAX)
        ]
        try:
            # What is refused, the loop will learn by itself.
            for _ in send(iter(batches), timeout=SEND_S):
                pass
        except grpc.RpcError as error:
            log.info("heartbeats could not be sent from the thread: %s", error)
