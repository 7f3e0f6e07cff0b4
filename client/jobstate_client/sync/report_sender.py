"""The background sender of a synchronous client: one thread and one StreamUpdates stream for all its runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import report_queue
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.report_queue import AttemptReports, Ending, ReportQueue, unanswered
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run import Delivery
from jobstate_client.core.values import Job
from jobstate_client.errors import ClientClosed, JobStateError, TransportError, Unreachable
from jobstate_client.sync.timeouts import Timeout, Timeouts

log = logging.getLogger("jobstate_client")

LINGER_S = 10.0
"""How long a stream without runs is kept for the next one, and within which a client that was forgotten is noticed."""

LOOK_S = 1.0
"""How often a run that waits for the answer to its end looks whether anybody sends it."""

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


class ReportSender:
    """Sends what runs report. It does not hold the client: once nobody does, the thread ends."""

    def __init__(
        self,
        open_stream: Callable[[Iterator[pb.StreamUpdatesRequest]], Any],
        lifetime: Lifetime,
        owner: Callable[[], object],
        silence: Timeouts,
    ) -> None:
        """Begin.

        Args:
            open_stream: opens a StreamUpdates stream.
            lifetime: the client's.
            owner: the client, None once it has been forgotten.
            silence: the client's; ends a stream whose answers take too long.
        """
        self._open_stream = open_stream
        self._lifetime = lifetime
        self._owner = owner
        self._silence = silence
        self._answer: Timeout | None = None
        """The wait for the oldest answer that is still to come."""
        self._outbox = ReportQueue()
        self._lock = threading.Lock()
        self._stream = _Stream()
        self._wanted = threading.Event()
        """Set when there is a run, or when it is time to stop."""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._call: Any = None
        self._trouble: JobStateError | None = None
        self._closed_by: ClientClosed | None = None
        """Why nothing can be sent any more."""

    def join(self, job: Job, heartbeat_s: float | None) -> tuple[AttemptReports, threading.Event]:
        """Take on the reports of an attempt. The event is set when its ending has been answered."""
        self._check()
        ended = threading.Event()
        line = AttemptReports(job.id, job.attempt, heartbeat_s, time.monotonic(), ended.set)
        with self._lock:
            self._outbox.join(line)
            self._send_on()
        return line, ended

    def leave(self, line: AttemptReports) -> None:
        """Forget an attempt."""
        if self._lifetime.is_forked:
            return
        with self._lock:
            self._outbox.leave(line)
            self._stream.news.set()

    def report(self, line: AttemptReports, update: pb.UpdateProgressRequest) -> None:
        """Send this soon. Raises what an earlier report was refused with."""
        self._check()
        with self._lock:
            self._outbox.report(line, update)
            self._send_on()

    def deliver(self, line: AttemptReports, ended: threading.Event, delivery: Delivery) -> Exception | None:
        """Send this, and wait for the answer. Returns what it was refused with."""
        ended.clear()
        try:
            self._end(line, delivery.ending)
        except JobStateError as error:
            return error
        deadline = time.monotonic() + delivery.patience_s
        while (left := deadline - time.monotonic()) > 0:
            if ended.wait(min(left, LOOK_S)):
                return line.end_error
            with self._lock:
                self._keep_thread()
        why = f": {self._trouble}" if self._trouble else ""
        return Unreachable(f"the end of {line.job_id} could not be told in {delivery.patience_s:g} s{why}")

    def _end(self, line: AttemptReports, ending: Ending) -> None:
        self._check()
        with self._lock:
            self._outbox.end(line, ending)
            if self._closing.is_set():
                self._outbox.abandon(ClientClosed("the client was closed"))
            self._send_on()

    def close(self) -> None:
        """Stop. What has not been sent is dropped, and runs that wait for their end are told so."""
        self._closing.set()
        self._wanted.set()
        with self._lock:
            self._stream.end()
            self._outbox.abandon(ClientClosed("the client was closed before the end of the run could be told"))
        self._cancel_call()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_S)

    def _cancel_call(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()

    def _check(self) -> None:
        # Before any lock is taken: in a forked process it may be held by a thread that is not there.
        self._lifetime.check()
        if self._closed_by is not None:
            raise self._closed_by

    def _send_on(self) -> None:
        """There is something to send. With the lock held."""
        self._wanted.set()
        self._stream.news.set()
        self._keep_thread()

    def _keep_thread(self) -> None:
        """Start the thread, or another when it has died. With the lock held."""
        if self._closing.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        if self._thread is not None:
            log.error("the thread that sends reports has died; another takes its place")
        self._thread = threading.Thread(target=self._serve, name="jobstate-reporter", daemon=True)
        self._thread.start()

    @property
    def _is_needed(self) -> bool:
        return not self._closing.is_set() and self._owner() is not None

    def _serve(self) -> None:
        while self._is_needed:
            if not self._wanted.wait(LINGER_S):
                continue
            stream = _Stream()
            with self._lock:
                if self._closing.is_set():
                    return
                # Of a thread that died.
                self._outbox.broken(None, time.monotonic())
                self._stream = stream
            error = self._trouble_with(stream)
            with self._lock:
                stream.end()
                wait = self._outbox.broken(error, time.monotonic())
                self._wait_for_answer()
            if error is not None and self._is_needed:
                log.info("the stream of reports broke off (%s); it goes on in %.1f s", error, wait)
                self._closing.wait(wait)

    def _trouble_with(self, stream: _Stream) -> JobStateError | None:
        """Keep a stream going until it ends. Returns what it broke off with, if it did."""
        try:
            self._call = self._open_stream(self._requests(stream))
            for response in self._call:
                with self._lock:
                    self._outbox.answer(response, time.monotonic())
                    self._wait_for_answer()
                self._trouble = None
                stream.news.set()
        except grpc.RpcError as failure:
            is_late = self._answer is not None and self._answer.is_over
            error = unanswered() if is_late else error_from_rpc(failure)
        except JobStateError as failure:
            error = failure
        except ValueError as failure:
            error = self._given_up(failure)
        except BaseException as failure:
            # Whatever it is, the runs of this client need the thread.
            log.exception("the stream of reports failed; it goes on with another")
            error = TransportError(f"the stream of reports failed: {failure!r}")
        else:
            return None
        finally:
            # As in a watch: gRPC's call must not be left for the interpreter's end.
            call, self._call = self._call, None
            if call is not None:
                call.cancel()
        self._trouble = error
        return error

    def _wait_for_answer(self) -> None:
        """Limit the wait for the oldest answer that is still to come. With the lock held."""
        if self._answer is not None:
            self._silence.end(self._answer)
        since = self._outbox.unanswered_since
        self._answer = None if since is None else self._silence.begin(self._cancel_call, since + report_queue.ANSWER_S)

    def _given_up(self, failure: ValueError) -> ClientClosed:
        """All that gRPC says of a channel that is closed: whoever gave it to the client has closed it."""
        error = self._closed_by = ClientClosed(f"the channel was closed: {failure}")
        self._closing.set()
        with self._lock:
            self._outbox.abandon(error)
        return error

    def _requests(self, stream: _Stream) -> Iterator[pb.StreamUpdatesRequest]:
        """The sending side of a stream, for a thread of gRPC's."""
        try:
            yield from self._batches(stream)
        except GeneratorExit:
            raise
        except BaseException:
            # gRPC would log it once more, or of some kinds wait for the next batch for ever.
            log.exception("a batch of reports could not be put together; the stream begins anew")
            self._cancel_call()

    def _batches(self, stream: _Stream) -> Iterator[pb.StreamUpdatesRequest]:
        """What there is to send; ends once there has been no run for a while."""
        while True:
            stream.news.clear()
            with self._lock:
                if stream.is_over:
                    return
                now = time.monotonic()
                batch, pause = self._outbox.next_batch(now), self._outbox.pause_s(now)
                if batch is not None:
                    self._wait_for_answer()
                is_idle = self._outbox.is_empty
            if batch is not None:
                yield batch
                continue
            has_news = stream.news.wait(LINGER_S if is_idle or pause is None else min(pause, LINGER_S))
            if not self._is_needed:
                self._cancel_call()
                return
            if is_idle and not has_news:
                with self._lock:
                    if self._outbox.is_empty:
                        self._wanted.clear()
                        return
