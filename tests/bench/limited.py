"""Workers in the load process of which only a few can have a job at a time, because the type has a limit."""

from __future__ import annotations

import time
from heapq import heappop, heappush

from jobstate.v1 import job_service_pb2 as pb

from .drivers import Poller, Tally
from .http2 import Connection
from .messages import Request
from .parked import PARKED_A_CONNECTION, acquire_call
from .workers import Answer, send

_ENDED_WITHIN_S = 120.0


class _Workers:
    """Workers that wait for a job, have it for a time, complete it, and wait for the next."""

    def __init__(self, address: str, count: int, seconds: float) -> None:
        addresses = address.split(",")
        # As many at each server, on as many connections as they need.
        each = -(-count // (PARKED_A_CONNECTION * len(addresses)))
        self._connections = [Connection(name) for _ in range(each) for name in addresses]
        self.poller = Poller(self._connections)
        self._seconds = seconds
        self._request = acquire_call()
        self._in_hand: list[tuple[float, int, pb.CompleteRequest]] = []
        """When each job is done, and the worker that has it."""
        self.tally = Tally()
        for worker in range(count):
            self._ask(worker)

    def _connection(self, worker: int) -> Connection:
        return self._connections[worker % len(self._connections)]

    def _ask(self, worker: int) -> None:
        def answered(answer: Answer) -> None:
            if answer.problem:
                self.tally.refuse(answer.problem)
                return
            jobs = pb.AcquireResponse.FromString(answer.message).jobs
            for job in jobs:
                done = pb.CompleteRequest(id=job.id, attempt=job.attempt)
                heappush(self._in_hand, (answer.ended_at + self._seconds, worker, done))
            if not jobs:
                self._ask(worker)

        send(self._connection(worker), self._request, answered)

    def complete(self) -> None:
        """Complete the jobs whose time is over."""
        while self._in_hand and self._in_hand[0][0] <= time.monotonic():
            _, worker, done = heappop(self._in_hand)
            self._complete(worker, done)

    def _complete(self, worker: int, done: pb.CompleteRequest) -> None:
        def answered(answer: Answer) -> None:
            if answer.problem:
                self.tally.refuse(answer.problem)
                return
            self.tally.answered += 1
            self._ask(worker)

        send(self._connection(worker), Request("Complete", done.SerializeToString()), answered)

    def until_next(self) -> float:
        """How long until a job is done, in seconds; a little while if none is under way."""
        return max(0.0, self._in_hand[0][0] - time.monotonic()) if self._in_hand else 0.1


def limited_workers(address: str, jobs: int, *, workers: float, seconds: float) -> Tally:
    """Let so many workers do these jobs, each of which takes so long."""
    began = time.monotonic()
    working = _Workers(address, int(workers), seconds)
    tally = working.tally

    def is_over() -> bool:
        return tally.answered >= jobs or bool(tally.refused)

    while not is_over() and time.monotonic() < began + _ENDED_WITHIN_S:
        working.poller.run(is_over, working.until_next())
        working.complete()
    tally.seconds = time.monotonic() - began
    working.poller.close()
    if not is_over():
        tally.refuse("the jobs were not done in time")
    return tally
