"""Asks the server for work, for a synchronous worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc

from jobstate_client.core.acquiring import RELEASE_REASON, Pauses, acquire_call, take_back_call
from jobstate_client.core.calls import Call
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S, RunOptions
from jobstate_client.core.values import Job
from jobstate_client.errors import ClientClosed, JobStateError

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client

log = logging.getLogger("jobstate_client")

Jobs = tuple[Job, ...]


class Acquirer:
    """Asks for work until it gets some. One thread calls it, and any may call ``stop``."""

    def __init__(self, client: Client, job_types: list[str], options: RunOptions) -> None:
        self._client = client
        self._job_types = job_types
        self._options = options
        # Reentrant: a signal handler that interrupts this thread may call ``stop``.
        self._changed = threading.Condition(threading.RLock())
        self._stopped = False
        self._waiting: Any = None
        """The call that is under way."""

    def acquire(self, free_hands: int, wait_s: float) -> Jobs:
        """Up to so many jobs, as soon as there are any. May be empty, and is when nothing was got before ``stop``.

        ``wait_s`` is how long the server waits for the first one.

        Raises:
            JobStateError: the server refuses the call, or the client is closed.
        """
        call, pauses, was_asked = acquire_call(self._job_types, free_hands, self._options, wait_s), Pauses(), False
        while not self._stopped:
            was_asked = True
            pauses.asked()
            try:
                jobs = self._ask(call)
            except JobStateError as error:
                pause = pauses.after(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, pause)
            else:
                if jobs is not None:
                    return jobs
        return self._take_back(call) if was_asked else ()

    def stop(self) -> None:
        """Ask no more, and give up a call that waits."""
        with self._changed:
            self._stopped = True
            waiting = self._waiting
            self._changed.notify_all()
        if waiting is not None:
            waiting.cancel()

    def release(self, jobs: Iterable[Job]) -> None:
        """Give back what nobody has begun."""
        for job in jobs:
            try:
                self._client.release(job, RELEASE_REASON, timeout=INTERRUPTED_PATIENCE_S)
            except JobStateError as error:
                log.warning("job %s could not be released, and is lost until its lease ends: %s", job.id, error)

    def _ask(self, call: Call[Jobs]) -> Jobs | None:
        """Make the call once. None if ``stop`` gave it up."""
        client = self._client
        try:
            with client._stub_for(call) as stub:
                with self._changed:
                    if self._stopped:
                        return None
                    timeout_s = call.timeout_s(client._timeout_s)
                    self._waiting = stub.future(call.request, timeout=timeout_s, **client._call_options)
                response = self._waiting.result()
        except grpc.FutureCancelledError:
            return None
        except grpc.RpcError as failure:
            if client._lifetime.is_closed:
                raise ClientClosed("the client was closed while its worker waited for work") from failure
            raise error_from_rpc(failure, call.request_id) from failure
        except ValueError as failure:
            # gRPC raises ValueError for a closed channel.
            raise ClientClosed(str(failure)) from failure
        finally:
            self._waiting = None
        return call.decode(response)

    def _take_back(self, call: Call[Jobs]) -> Jobs:
        """What a call that was given up may have got. Otherwise it would be lost until its lease ends."""
        try:
            return self._client._invoke(take_back_call(call))
        except JobStateError as error:
            log.info("whether jobs were handed out to a worker that has stopped is unknown: %s", error)
            return ()
