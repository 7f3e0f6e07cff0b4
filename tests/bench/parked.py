"""Workers in the load process that wait for jobs: one that is raced by the answer of a Create, or very many."""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.rpc.transport_limits import CONNECTION_STREAMS_MAX

from . import messages
from .drivers import Poller, Tally, connected
from .http2 import Connection
from .messages import Request
from .watching import OPENED_AT_ONCE
from .workers import Answer, send

_WAIT_S = 60
_LEASE_S = 3_600
"""Jobs that a worker has got are not looked after any more. No lease is to end while others are measured."""
_ANSWERED_WITHIN_S = 10.0
_PACED_CONNECTIONS = 8
"""So that a server that is slow for some seconds is not given more calls than a connection may have open."""
PARKED_A_CONNECTION = CONNECTION_STREAMS_MAX - 1
"""One is left for a call that shows that these have begun."""


def acquire_call() -> Request:
    """An Acquire of one job that waits as long as it may."""
    request = pb.AcquireRequest(job_types=[messages.JOB_TYPE], worker="worker-1")
    request.wait.FromSeconds(_WAIT_S)
    request.lease.FromSeconds(_LEASE_S)
    return Request("Acquire", request.SerializeToString())


def _finish(poller: Poller, answers: list[Answer], count: int) -> None:
    if not poller.run(lambda: len(answers) >= count, _ANSWERED_WITHIN_S):
        raise TimeoutError("a call was not answered")
    for answer in answers:
        if answer.problem:
            raise RuntimeError(answer.problem)


def hand_out_race(address: str, job_ids: Sequence[str]) -> tuple[Tally, list[float]]:
    """Create jobs one at a time while a worker waits; returns with the calls how long after each was sent it had one.

    Where ``address`` names two servers, the jobs are created on the first and the worker waits at the second.
    """
    caller, waiting = connected(address, 2)
    poller = Poller([caller, waiting])
    tally = Tally()
    heard: list[float] = []
    done: bytes | None = None
    for job_id in job_ids:
        got: list[Answer] = []
        send(waiting, acquire_call(), got.append)
        if done is not None:
            # It goes the way of the Acquire behind it, so once it is answered the Acquire waits.
            behind: list[Answer] = []
            send(waiting, Request("Complete", done), behind.append)
            _finish(poller, behind, 1)
        made: list[Answer] = []
        began = time.monotonic()
        send(caller, Request("Create", messages.create_request(job_id).SerializeToString()), made.append)
        _finish(poller, made, 1)
        _finish(poller, got, 1)
        (job,) = pb.AcquireResponse.FromString(got[0].message).jobs
        if job.id != job_id:
            raise RuntimeError(f"the worker got {job.id}, while {job_id} was created")
        if done is not None:
            tally.answered += 1
            tally.took.append(made[0].ended_at - began)
            heard.append(got[0].ended_at - began)
        done = pb.CompleteRequest(id=job_id, attempt=1).SerializeToString()
    last: list[Answer] = []
    send(waiting, Request("Complete", done or b""), last.append)
    _finish(poller, last, 1)
    poller.close()
    return tally, heard


class ParkedWorkers:
    """Very many workers that wait for one job each, and ask again when they have got it."""

    def __init__(self, address: str, count: int) -> None:
        """Let them ask, on as many connections as they need."""
        self._connections = [Connection(address) for _ in range(-(-count // PARKED_A_CONNECTION))]
        self.poller = Poller(self._connections)
        self._request = acquire_call()
        self._problem = ""
        self.served = 0
        for number in range(count):
            self._ask(self._connections[number % len(self._connections)])
            if number % OPENED_AT_ONCE == 0:
                self.settle()
        self.settle()

    def settle(self) -> None:
        """Wait until the server has begun with every call made so far: it answers another on each connection."""
        answers: list[Answer] = []
        for connection in self._connections:
            send(connection, Request("GetStats", b""), answers.append)
        _finish(self.poller, answers, len(self._connections))

    def _ask(self, connection: Connection) -> None:
        def answered(answer: Answer) -> None:
            self._problem = self._problem or answer.problem
            self.served += bool(answer.message)
            if not answer.problem:
                self._ask(connection)

        send(connection, self._request, answered)

    def wait_served(self, count: int) -> int:
        """Wait until so many have got a job; how many did."""
        if not self.poller.run(lambda: self.served >= count or bool(self._problem), _ANSWERED_WITHIN_S):
            raise TimeoutError(f"{self.served} of {count} jobs were handed out")
        if self._problem:
            raise RuntimeError(self._problem)
        return self.served

    def close(self) -> None:
        """End all calls."""
        self.poller.close()


def paced(address: str, requests: Sequence[Request], per_second: float) -> Tally:
    """Make calls at a steady pace, whatever the answers take."""
    connections = connected(address, _PACED_CONNECTIONS)
    poller = Poller(connections)
    tally = Tally()
    answers: list[Answer] = []
    began = time.monotonic()
    for number, request in enumerate(requests):
        poller.run(lambda: False, max(0.0, began + number / per_second - time.monotonic()))
        send(connections[number % len(connections)], request, answers.append)
    poller.run(lambda: len(answers) == len(requests), _ANSWERED_WITHIN_S)
    tally.seconds = time.monotonic() - began
    for answer in answers:
        if answer.problem:
            tally.refuse(answer.problem)
        else:
            tally.answered += 1
            tally.took.append(answer.ended_at - answer.began)
    poller.close()
    return tally
