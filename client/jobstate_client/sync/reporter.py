"""The background sender of a synchronous client: one thread and one StreamUpdates stream for all its runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core.outbox import Ending, Line, Outbox
from jobstate_client.core.refusals import error_of
from jobstate_client.core.running import Delivery
from jobstate_client.core.values import Job
from jobstate_client.errors import JobStateError, Unreachable

log = logging.getLogger("jobstate_client")

LINGER_S = 10.0
"""How long a stream without runs is kept for the next one."""

STOP_S = 5.0
"""How long closing waits for the thread."""


class _Stream:
    """One stream: what tells its sending side, in a thread of gRPC's, that there is news or that it is over."""

    def __init__(self) -> None:
        self.news = threading.Event()
        self.is_over = False

    def end(self) -> None:
        """With the lock held, so that nothing is taken from the outbox for this stream any more."""
        self.is_over = True
        self.news.set()


class Reporter:
    """Sends what runs report."""

    def __init__(self, open_stream: Callable[[Iterator[pb.StreamUpdatesRequest]], Any]) -> None:
        self._open_stream = open_stream
        self._outbox = Outbox()
        self._lock = threading.Lock()
        self._stream = _Stream()
        self._wanted = threading.Event()
        """Set when there is a run, or when it is time to stop."""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._call: Any = None
        self._trouble: JobStateError | None = None

    def join(self, job: Job, heartbeat_s: float | None) -> tuple[Line, threading.Event]:
        """Take on the reports of an attempt. The event is set when its ending has been answered."""
        ended = threading.Event()
        line = Line(job.id, job.attempt, heartbeat_s, time.monotonic(), ended.set)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="jobstate-reporter", daemon=True)
                self._thread.start()
            self._outbox.join(line)
            self._wanted.set()
            self._stream.news.set()
        return line, ended

    def leave(self, line: Line) -> None:
        """Forget an attempt."""
        with self._lock:
            self._outbox.leave(line)
            self._stream.news.set()

    def report(self, line: Line, update: pb.UpdateProgressRequest) -> None:
        """Send this soon. Raises what an earlier report was refused with."""
        with self._lock:
            self._outbox.report(line, update)
            self._stream.news.set()

    def deliver(self, line: Line, ended: threading.Event, delivery: Delivery) -> Exception | None:
        """Send this, and wait for the answer. Returns what it was refused with."""
        ended.clear()
        try:
            self._end(line, delivery.ending)
        except JobStateError as error:
            return error
        if ended.wait(delivery.patience_s):
            return line.end_error
        why = f": {self._trouble}" if self._trouble else ""
        return Unreachable(f"the end of {line.job_id} could not be told in {delivery.patience_s:g} s{why}")

    def _end(self, line: Line, ending: Ending) -> None:
        with self._lock:
            self._outbox.end(line, ending)
            self._stream.news.set()

    def close(self) -> None:
        """Stop. What has not been sent is dropped."""
        self._closing.set()
        self._wanted.set()
        with self._lock:
            self._stream.end()
        call = self._call
        if call is not None:
            call.cancel()
        del call
        if self._thread is not None:
            self._thread.join(STOP_S)

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._wanted.wait()
            stream = _Stream()
            with self._lock:
                if self._closing.is_set():
                    return
                self._stream = stream
            error: JobStateError | None = None
            try:
                self._call = self._open_stream(self._requests(stream))
                for response in self._call:
                    with self._lock:
                        self._outbox.answer(response, time.monotonic())
                    self._trouble = None
                    stream.news.set()
            except grpc.RpcError as failure:
                error = self._trouble = error_of(failure)
            except ValueError:
                # The channel has been closed under us.
                return
            finally:
                # As in a watch: gRPC's call must not be left for the interpreter's end.
                self._call = None
            with self._lock:
                stream.end()
                wait = self._outbox.broken(error, time.monotonic())
            if error is not None and not self._closing.is_set():
                log.info("the stream of reports broke off (%s); it goes on in %.1f s", error, wait)
                self._closing.wait(wait)

    def _requests(self, stream: _Stream) -> Iterator[pb.StreamUpdatesRequest]:
        """The sending side of a stream; ends it once there has been no run for a while."""
        while True:
            stream.news.clear()
            with self._lock:
                if stream.is_over:
                    return
                now = time.monotonic()
                batch, pause = self._outbox.next_batch(now), self._outbox.pause_s(now)
                is_idle = self._outbox.is_empty
            if batch is not None:
                yield batch
            elif not stream.news.wait(LINGER_S if is_idle else pause) and is_idle:
                with self._lock:
                    if self._outbox.is_empty:
                        self._wanted.clear()
                        return
