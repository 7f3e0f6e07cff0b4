"""A call of Acquire that can be interrupted. Jobs that were handed out to nobody are released."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
import grpc

from jobstate_client.cli.terminal.error_messages import message
from jobstate_client.cli.terminal.output import note
from jobstate_client.core import dispatch
from jobstate_client.core.acquiring import take_back_call
from jobstate_client.core.calls import CallRetries
from jobstate_client.core.rpc_errors import error_from_rpc
from jobstate_client.core.run import INTERRUPTED_PATIENCE_S
from jobstate_client.errors import JobStateError
from jobstate_client.views.text import span

if TYPE_CHECKING:
    from jobstate_client.core.values import Job
    from jobstate_client.sync.client import Client

REASON = "the command was interrupted"


class Acquiring:
    """One call, with its repeats."""

    def __init__(self, client: Client, server: str, job_types: list[str], **arguments: Any) -> None:
        """Prepare the call. ``server`` is its address, for messages.

        Raises:
            click.UsageError: the library refuses an argument.
        """
        self._client = client
        self._server = server
        try:
            self._call = dispatch.acquire(job_types, **arguments)
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error)) from error

    def acquire(self) -> tuple[Job, ...]:
        """The jobs; none if nothing was ready in time. When a signal ends it, what it may have got is released.

        Raises:
            JobStateError: the call was refused, or not answered.
        """
        retries = CallRetries(self._call.timeout_s(self._client._timeout_s))
        try:
            while True:
                try:
                    return self._ask(retries.left_s())
                except JobStateError as error:
                    time.sleep(retries.wait_s(error))
        except (KeyboardInterrupt, SystemExit):
            self._take_back()
            raise

    def _ask(self, timeout_s: float) -> tuple[Job, ...]:
        """Make the call once. A signal cancels it, so that the server does not go on waiting for us."""
        with self._client._stub_for(self._call) as stub:
            waiting = stub.future(self._call.request, timeout=timeout_s)
            try:
                return self._call.decode(waiting.result())
            except grpc.RpcError as failure:
                raise error_from_rpc(failure, self._call.request_id) from failure
            finally:
                waiting.cancel()

    def _take_back(self) -> None:
        """Release what the call got although nobody waits for its answer any more."""
        try:
            jobs = self._client._invoke(take_back_call(self._call))
        except JobStateError as error:
            why = message(error, self._server)
            note(
                f"whether jobs were handed out is unknown: {why}. If there are any, they are kept until their lease "
                f"ends: the same command with --request-id {self._call.request_id} returns them"
            )
        else:
            self.give_back(jobs)

    def give_back(self, jobs: Iterable[Job]) -> None:
        """Release jobs that were handed out and cannot be delivered."""
        for job in jobs:
            try:
                self._client.release(job, REASON, timeout=INTERRUPTED_PATIENCE_S)
            except JobStateError as error:
                why = message(error, self._server)
                lease = f" of {span(job.lease)}" if job.lease is not None else ""
                note(f"{job.id} was handed out in attempt {job.attempt}, which fails when its lease{lease} ends: {why}")
            else:
                note(f"{job.id} was handed out in attempt {job.attempt}, and is released again")
