"""``with client.updates() as updates:`` changes of many jobs over one stream, in threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import report_queue
from jobstate_client.core.client_methods import UpdateMethods
from jobstate_client.core.lifetime import Lifetime
from jobstate_client.core.report_queue import answer_timed_out
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.update_queue import Answer, UpdateQueue, closed_error, warn_of_failures
from jobstate_client.core.values import Updated
from jobstate_client.errors import ClientClosed, JobStateError
from jobstate_client.sync.timeouts import Timeout, Timeouts

log = logging.getLogger("jobstate_client")

Answers = Iterable[Answer[Future[Updated]]]


class _Stream:
    """One stream. ``is_over`` ends its sending side, which runs in a thread of gRPC's."""

    def __init__(self) -> None:
        self.is_over = False


class Updates(UpdateMethods):
    """Sends changes of many jobs over one stream, up to 500 in a batch. Every method may be called from any thread.

    The methods take the arguments of those of ``Client``, and return a ``Future`` of an ``Updated`` at once. They wait
    while 2,000 updates are not answered. Updates are made in the order in which they were sent; one that is refused
    changes nothing, and its future has the error. The stream resumes by itself: what was not answered is sent again,
    with its request ids.
    """

    def __init__(
        self,
        open_stream: Callable[[Iterator[pb.StreamUpdatesRequest]], Any],
        lifetime: Lifetime,
        timeouts: Timeouts,
        patience_s: float,
    ) -> None:
        self._open_stream = open_stream
        self._lifetime = lifetime
        self._timeouts = timeouts
        self._answer_timeout: Timeout | None = None
        """Runs while an answer is expected."""
        self._queue: UpdateQueue[Future[Updated]] = UpdateQueue(patience_s)
        # Reentrant: a callback of a future, or a signal handler, may send another update.
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._call: Any = None
        self._closed: ClientClosed | None = None
        self._sent = self._failed = 0
        self._first_error: JobStateError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.close()
            warn_of_failures(self._sent, self._failed, self._first_error)

    def flush(self) -> None:
        """Wait until every update has been answered, or has failed."""
        self._lifetime.check()
        with self._changed:
            self._changed.wait_for(lambda: self._queue.is_empty)

    def close(self) -> None:
        """Send nothing more. What has not been answered fails with ``ClientClosed``: its outcome is unknown."""
        if self._lifetime.is_forked:
            return
        with self._changed:
            self._closed = self._closed or closed_error()
            answers = self._queue.abandon(self._closed)
            self._changed.notify_all()
        self._cancel_call()
        self._resolve(answers)

    def _send(self, request: Message) -> Future[Updated]:
        self._lifetime.check()
        future: Future[Updated] = Future()
        future.set_running_or_notify_cancel()
        with self._changed:
            # A callback runs in the thread that makes room: it must not wait for that.
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(lambda: self._closed is not None or not self._queue.is_full)
            if self._closed is not None:
                raise self._closed
            self._queue.add(request, future)
            self._sent += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="jobstate-updates", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return future

    def _serve(self) -> None:
        """The body of the thread: one stream after the other."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed is not None or self._queue.has_batch)
                if self._closed is not None:
                    return
                stream = _Stream()
            error = self._run_stream(stream)
            with self._changed:
                stream.is_over = True
                wait_s, answers = self._queue.stream_ended(self._why_ended(error))
                self._limit_answer()
                self._changed.notify_all()
            self._resolve(answers)
            if wait_s:
                log.info("the stream of updates broke (%s); opening another in %.1f s", error, wait_s)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed is not None, wait_s)

    def _run_stream(self, stream: _Stream) -> JobStateError | None:
        """Run one stream until it ends. Returns the error that it broke with, or None."""
        try:
            self._call = self._open_stream(self._batches(stream))
            for response in self._call:
                with self._changed:
                    answers = self._queue.handle_response(response)
                    self._limit_answer()
                    self._changed.notify_all()
                self._resolve(answers)
        except grpc.RpcError as failure:
            timed_out = self._answer_timeout is not None and self._answer_timeout.has_expired
            return answer_timed_out() if timed_out else error_from_rpc(failure)
        except JobStateError as failure:
            return failure
        except ValueError as failure:
            # gRPC raises ValueError for a closed channel.
            return ClientClosed(f"the channel was closed: {failure}")
        finally:
            self._cancel_call()
            self._call = None
        return None

    def _batches(self, stream: _Stream) -> Iterator[pb.StreamUpdatesRequest]:
        """The sending side of a stream."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: stream.is_over or self._closed is not None or self._queue.has_batch)
                if stream.is_over or self._closed is not None:
                    return
                batch = self._queue.next_batch()
                if self._answer_timeout is None:
                    self._limit_answer()
            yield batch

    def _limit_answer(self) -> None:
        """Limit the wait for the next answer, if one is expected. With the lock held."""
        if self._answer_timeout is not None:
            self._timeouts.stop(self._answer_timeout)
        self._answer_timeout = None
        if self._queue.expects_answer:
            deadline = time.monotonic() + report_queue.ANSWER_TIMEOUT_S
            self._answer_timeout = self._timeouts.start(self._cancel_call, deadline)

    def _cancel_call(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()

    def _why_ended(self, error: JobStateError | None) -> JobStateError | None:
        return self._closed or error

    def _resolve(self, answers: Answers) -> None:
        """Tell those who wait. Without the lock: what they have asked to be called may take it elsewhere."""
        for future, updated, error in answers:
            if error is None:
                assert updated is not None
                future.set_result(updated)
                continue
            self._failed += 1
            self._first_error = self._first_error or error
            future.set_exception(error)
