"""Sends the reports of a synchronous client: one thread and one StreamUpdates stream for all its runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import report_queue
from jobstate_client.core.attempt_reports import AttemptReports, Ending
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.report_queue import ReportQueue, answer_timed_out
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run_ending import Delivery
from jobstate_client.core.values import Job
from jobstate_client.errors import ClientClosed, JobCancelled, JobStateError, TransportError, Unreachable
from jobstate_client.sync.timeouts import Timeout, Timeouts

log = logging.getLogger("jobstate_client")

IDLE_S = 10.0
"""How long a stream without runs stays open for the next run, and how soon the thread of a client that was garbage
collected ends."""

THREAD_CHECK_S = 1.0
"""How often a run that waits for the answer to its end checks that the thread is alive."""

JOIN_TIMEOUT_S = 5.0
"""How long closing waits for the thread."""


class _Stream:
    """One stream. It notifies its sending side, which runs in a thread of gRPC's, of news and of its end."""

    def __init__(self) -> None:
        self.news = threading.Event()
        self.is_over = False

    def end(self) -> None:
        """With the lock held, so that nothing more is taken from the queue for this stream."""
        self.is_over = True
        self.news.set()


class ReportSender:
    """Sends what runs report. It holds no reference to the client: the thread ends when the client is garbage."""

    def __init__(
        self,
        open_stream: Callable[[Iterator[pb.StreamUpdatesRequest]], Any],
        lifetime: Lifetime,
        owner: Callable[[], object],
        timeouts: Timeouts,
    ) -> None:
        """Start nothing yet.

        Args:
            open_stream: opens a StreamUpdates stream.
            lifetime: the client's.
            owner: returns the client, or None once it is garbage.
            timeouts: the client's; they end a stream whose answers take too long.
        """
        self._open_stream = open_stream
        self._lifetime = lifetime
        self._owner = owner
        self._timeouts = timeouts
        self._answer_timeout: Timeout | None = None
        """Runs while an answer is expected: the limit of the oldest one."""
        self._queue = ReportQueue()
        self._lock = threading.Lock()
        self._stream = _Stream()
        self._wanted = threading.Event()
        """Set when there is a run, or when it is time to stop."""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._call: Any = None
        self._last_error: JobStateError | None = None
        """The error of the last stream, until another stream is answered."""
        self._closed_by: ClientClosed | None = None
        """Why nothing can be sent any more."""

    def add(self, job: Job, heartbeat_s: float | None) -> tuple[AttemptReports, threading.Event]:
        """Begin to send the reports of an attempt. The event is set when its ending has been answered."""
        self._check()
        ended = threading.Event()
        reports = AttemptReports(job.id, job.attempt, heartbeat_s, time.monotonic(), ended.set)
        with self._lock:
            self._queue.add(reports)
            self._wake()
        return reports, ended

    def remove(self, reports: AttemptReports) -> None:
        """Forget an attempt."""
        if self._lifetime.is_forked:
            return
        with self._lock:
            self._queue.remove(reports)
            self._stream.news.set()

    def report(self, reports: AttemptReports, update: pb.UpdateProgressRequest) -> None:
        """Send this soon. Raises the error that an earlier report was refused with."""
        self._check()
        with self._lock:
            reports.add(update)
            self._wake()

    def cancel(self, reports: AttemptReports, error: JobCancelled) -> None:
        """The job has been cancelled: report nothing more."""
        with self._lock:
            reports.cancel(error)

    def deliver(self, reports: AttemptReports, ended: threading.Event, delivery: Delivery) -> Exception | None:
        """Send an ending and wait for the answer. Returns the error that it was refused with."""
        ended.clear()
        try:
            self._send_ending(reports, delivery.ending)
        except JobStateError as error:
            return error
        deadline = time.monotonic() + delivery.patience_s
        while (left := deadline - time.monotonic()) > 0:
            if ended.wait(min(left, THREAD_CHECK_S)):
                return reports.end_error
            with self._lock:
                self._keep_thread()
        why = f": {self._last_error}" if self._last_error else ""
        return Unreachable(f"the end of {reports.job_id} could not be sent within {delivery.patience_s:g} s{why}")

    def _send_ending(self, reports: AttemptReports, ending: Ending) -> None:
        self._check()
        with self._lock:
            reports.end(ending)
            if self._closing.is_set():
                self._queue.abandon(ClientClosed("the client was closed"))
            self._wake()

    def close(self) -> None:
        """Stop. What has not been sent is dropped, and runs that wait for their end get ``ClientClosed``."""
        self._closing.set()
        self._wanted.set()
        with self._lock:
            self._stream.end()
            self._queue.abandon(ClientClosed("the client was closed before the end of the run was sent"))
        self._cancel_call()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_TIMEOUT_S)

    def _cancel_call(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()

    def _check(self) -> None:
        # Before any lock is taken: in a forked process a thread that does not exist may hold it.
        self._lifetime.check()
        if self._closed_by is not None:
            raise self._closed_by

    def _wake(self) -> None:
        """There is something to send. With the lock held."""
        self._wanted.set()
        self._stream.news.set()
        self._keep_thread()

    def _keep_thread(self) -> None:
        """Start the thread, or another if it has died. With the lock held."""
        if self._closing.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        if self._thread is not None:
            log.error("the thread that sends reports has died; starting another")
        self._thread = threading.Thread(target=self._serve, name="jobstate-reports", daemon=True)
        self._thread.start()

    @property
    def _is_needed(self) -> bool:
        return not self._closing.is_set() and self._owner() is not None

    def _serve(self) -> None:
        while self._is_needed:
            if not self._wanted.wait(IDLE_S):
                continue
            stream = _Stream()
            with self._lock:
                if self._closing.is_set():
                    return
                # What a thread that died had sent.
                self._queue.stream_ended(None, time.monotonic())
                self._stream = stream
            error = self._run_stream(stream)
            with self._lock:
                stream.end()
                wait = self._queue.stream_ended(error, time.monotonic())
                self._limit_answer()
            if error is not None and self._is_needed:
                log.info("the stream of reports broke (%s); opening another in %.1f s", error, wait)
                self._closing.wait(wait)

    def _run_stream(self, stream: _Stream) -> JobStateError | None:
        """Run one stream until it ends. Returns the error that it broke with, or None."""
        try:
            self._call = self._open_stream(self._requests(stream))
            for response in self._call:
                with self._lock:
                    self._queue.handle_response(response, time.monotonic())
                    self._limit_answer()
                self._last_error = None
                stream.news.set()
        except grpc.RpcError as failure:
            timed_out = self._answer_timeout is not None and self._answer_timeout.has_expired
            error = answer_timed_out() if timed_out else error_from_rpc(failure)
        except JobStateError as failure:
            error = failure
        except ValueError as failure:
            error = self._channel_closed(failure)
        except BaseException as failure:
            # Whatever it is, the runs of this client need the thread.
            log.exception("the stream of reports failed; opening another")
            error = TransportError(f"the stream of reports failed: {failure!r}")
        else:
            return None
        finally:
            # As in a watch: gRPC's call must not live until the interpreter ends.
            self._cancel_call()
            self._call = None
        self._last_error = error
        return error

    def _limit_answer(self) -> None:
        """Limit the wait for the oldest answer that is expected. With the lock held."""
        if self._answer_timeout is not None:
            self._timeouts.stop(self._answer_timeout)
        since = self._queue.waiting_since
        self._answer_timeout = None
        if since is not None:
            self._answer_timeout = self._timeouts.start(self._cancel_call, since + report_queue.ANSWER_TIMEOUT_S)

    def _channel_closed(self, failure: ValueError) -> ClientClosed:
        """gRPC raises ValueError for a closed channel: the program closed the channel that it gave to the client."""
        error = self._closed_by = ClientClosed(f"the channel was closed: {failure}")
        self._closing.set()
        with self._lock:
            self._queue.abandon(error)
        return error

    def _requests(self, stream: _Stream) -> Iterator[pb.StreamUpdatesRequest]:
        """The sending side of a stream, which runs in a thread of gRPC's."""
        try:
            yield from self._batches(stream)
        except GeneratorExit:
            raise
        except BaseException:
            # gRPC would log it a second time, or for some exceptions wait for the next batch for ever.
            log.exception("a batch of reports could not be built; opening another stream")
            self._cancel_call()

    def _batches(self, stream: _Stream) -> Iterator[pb.StreamUpdatesRequest]:
        """The batches to send. Ends when there has been no run for IDLE_S."""
        while True:
            stream.news.clear()
            with self._lock:
                if stream.is_over:
                    return
                now = time.monotonic()
                batch, pause = self._queue.next_batch(now), self._queue.next_batch_in_s(now)
                if batch is not None:
                    self._limit_answer()
                is_idle = self._queue.is_empty
            if batch is not None:
                yield batch
                continue
            has_news = stream.news.wait(IDLE_S if is_idle or pause is None else min(pause, IDLE_S))
            if not self._is_needed:
                self._cancel_call()
                return
            if is_idle and not has_news:
                with self._lock:
                    if self._queue.is_empty:
                        self._wanted.clear()
                        return
