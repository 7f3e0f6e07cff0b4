"""Watchers in the load process: many that only listen, or one that is raced by the answer of a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.rpc.transport_limits import CONNECTION_STREAMS_MAX

from .drivers import Poller, Tally, connected, headers
from .http2 import Connection, Messages
from .messages import Request

ENDED_OK = "ended OK"


OPENED_AT_ONCE = 500
"""Watches that are opened before the next wait. gRPC refuses calls at random when a thousand wait to be begun."""


class Watcher:
    """One watch. It keeps what it gets as it came: decoding is for after the measurement."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.problem: str | None = None
        self.size = 0
        self.last = 0.0
        self._tail = b""
        self._marker: bytes | None = None
        self.seen_marker = False

    def look_for(self, marker: bytes) -> None:
        """Note when these bytes have come."""
        self.chunks.clear()
        self.size = 0
        self._marker, self._tail, self.seen_marker = marker, b"", False

    def received(self, payload: bytes) -> None:
        self.chunks.append(payload)
        self.size += len(payload)
        if self._marker is not None:
            size = len(self._marker)
            if self._marker in payload or self._marker in self._tail + payload[:size]:
                self.seen_marker = True
                self.last = time.monotonic()
            self._tail = (self._tail + payload)[-size:] if len(payload) < size else payload[-size:]

    def ended(self, problem: str) -> None:
        self.problem = problem or ENDED_OK

    def events(self) -> list[pb.WatchEventsResponse]:
        """What came, decoded."""
        found: list[pb.WatchEventsResponse] = []
        messages = Messages(lambda message: found.append(pb.WatchEventsResponse.FromString(message)))
        for chunk in self.chunks:
            messages.add(chunk)
        return found


class Watchers:
    """Many watches, spread over connections, kept alive for as long as the load process is not asked otherwise."""

    def __init__(self, address: str, requests: Sequence[bytes], connections: int) -> None:
        """Open them, over more connections where these have no room, and wait until each has caught up."""
        # A server takes so many streams of a connection, and resets the next.
        connections = max(connections, -(-len(requests) // CONNECTION_STREAMS_MAX))
        opened = [Connection(address) for _ in range(connections)]
        self.poller = Poller(opened)
        self._watchers: list[Watcher] = []
        for number, request in enumerate(requests):
            watcher = Watcher()
            connection = opened[number % connections]
            connection.send(connection.open(headers("WatchEvents"), watcher), request, end=True)
            self._watchers.append(watcher)
            if len(self._watchers) % OPENED_AT_ONCE == 0:
                self._run_until(lambda watcher: bool(watcher.chunks))
        self._run_until(lambda watcher: bool(watcher.chunks))

    def _run_until(self, is_done: Callable[[Watcher], bool], timeout: float = 120.0) -> None:
        waiting = list(self._watchers)

        def all_done() -> bool:
            while waiting and is_done(waiting[-1]):
                waiting.pop()
            return not waiting

        if not self.poller.run(all_done, timeout):
            raise TimeoutError(f"{len(waiting)} of {len(self._watchers)} watchers still wait")

    def expect(self, marker: bytes) -> None:
        """Forget what came so far; ``wait`` then waits for an event that holds these bytes."""
        for watcher in self._watchers:
            watcher.look_for(marker)

    def wait(self, timeout: float) -> float:
        """Wait until every watcher has got the marker. Returns when the last did, by the monotonic clock."""
        self._run_until(lambda watcher: watcher.seen_marker, timeout)
        return max(watcher.last for watcher in self._watchers)

    def wait_for_bytes(self, size: int, timeout: float) -> float:
        """Wait until every watcher has got this much. Returns when the last had, by the monotonic clock."""
        self._run_until(lambda watcher: watcher.size >= size, timeout)
        return time.monotonic()

    def verdict(self, first: int, last: int) -> tuple[int, int, int]:
        """Events, bytes and messages that came in all.

        Raises:
            AssertionError: a watcher missed one of the events from ``first`` to ``last``, or got one twice.
        """
        events = size = messages = 0
        for watcher in self._watchers:
            assert watcher.problem is None, watcher.problem
            responses = watcher.events()
            got = [event.sequence for response in responses for event in response.events]
            assert got == list(range(first, last + 1)), f"a watcher got {len(got)} events of {last - first + 1}"
            events += len(got)
            messages += len(responses)
            size += sum(map(len, watcher.chunks))
        return events, size, messages

    def close(self) -> None:
        """End all watches."""
        self.poller.close()


class _Timed:
    """Notes when the first bytes came, or the end."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.is_over = False
        self.problem = ""

    def received(self, payload: bytes) -> None:
        if self.at is None:
            self.at = time.monotonic()

    def ended(self, problem: str) -> None:
        self.is_over = True
        self.problem = problem


def race(address: str, chains: Sequence[Sequence[Request]], watch: bytes | None) -> tuple[Tally, list[float]]:
    """Make calls one at a time; returns with them how long after each was sent a watcher elsewhere heard of it.

    Where ``address`` names two servers, the calls go to the first and the watcher listens to the second.
    """
    caller, listener = connected(address, 2)
    poller = Poller([caller, listener])
    tally = Tally()
    heard: list[float] = []
    watcher = _Timed()
    if watch is not None:
        listener.send(listener.open(headers("WatchEvents"), watcher), watch, end=True)
        poller.run(lambda: watcher.at is not None)
    for chain in chains:
        for request in chain:
            answer, watcher.at = _Timed(), None
            began = time.monotonic()
            caller.send(caller.open(headers(request.method), answer), request.body, end=True)

            def both(answer: _Timed = answer) -> bool:
                return answer.is_over and (watch is None or watcher.at is not None)

            if not poller.run(both, 10.0) or answer.problem or watcher.is_over:
                tally.refuse(answer.problem or watcher.problem or "no answer, or no event")
                continue
            tally.answered += 1
            tally.began.append(began)
            tally.took.append((answer.at or began) - began)
            if watcher.at is not None:
                heard.append(watcher.at - began)
    poller.close()
    return tally, heard


def read_to_end(address: str, request: bytes) -> tuple[int, float, float]:
    """Read a watch that ends by itself. Returns how many jobs it held, and when it began and ended."""
    connection = Connection(address)
    poller = Poller([connection])
    watcher = Watcher()
    began = time.monotonic()
    connection.send(connection.open(headers("WatchEvents"), watcher), request, end=True)
    in_time = poller.run(lambda: watcher.problem is not None, 300.0)
    ended = time.monotonic()
    poller.close()
    if not in_time or watcher.problem != ENDED_OK:
        raise TimeoutError(f"the watch did not end well: {watcher.problem}")
    jobs = 0

    def count(message: bytes) -> None:
        nonlocal jobs
        jobs += len(pb.WatchEventsResponse.FromString(message).jobs)

    messages = Messages(count)
    for chunk in watcher.chunks:
        messages.add(chunk)
    return jobs, began, ended
