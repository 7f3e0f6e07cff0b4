"""What the load process does to a server: calls, batches over streams, watches, one call at a time beside a watch."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from jobstate_server.rpc.transport_limits import CONNECTION_STREAMS_MAX

from .http2 import Connection, Messages, header_block
from .messages import SERVICE, Request

_PROBLEMS_KEPT = 5


class Poller:
    """Runs connections until something is so."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections
        self._poll = select.epoll()
        self._by_number = {connection.fileno(): connection for connection in connections}
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)
        self._writing: set[int] = set()

    def also(self, number: int) -> None:
        """Wake up for this descriptor too."""
        self._poll.register(number, select.EPOLLIN)

    def run(self, is_done: Callable[[], bool], timeout: float = 120.0) -> bool:
        """Run until ``is_done`` or a descriptor of somebody else's is ready. False when time ran out."""
        deadline = time.monotonic() + timeout
        self._flush()
        while not is_done():
            ready = self._poll.poll(max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            foreign = False
            for number, mask in ready:
                connection = self._by_number.get(number)
                if connection is None:
                    foreign = True
                elif mask & ~select.EPOLLOUT:
                    connection.receive()
            self._flush()
            if foreign:
                return True
        return True

    def _flush(self) -> None:
        for number, connection in self._by_number.items():
            if connection.wants_to_write:
                connection.flush()
                self._watch_writing(number, connection.wants_to_write)
            elif number in self._writing:
                self._watch_writing(number, False)

    def _watch_writing(self, number: int, wanted: bool) -> None:
        if wanted != (number in self._writing):
            (self._writing.add if wanted else self._writing.discard)(number)
            self._poll.modify(number, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def close(self) -> None:
        """End the connections."""
        self._poll.close()
        for connection in self._connections:
            connection.close()


@dataclass
class Tally:
    """What came of a load."""

    answered: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0

    def refuse(self, problem: str) -> None:
        """Note what did not go well."""
        self.refused += 1
        if len(self.problems) < _PROBLEMS_KEPT:
            self.problems.append(problem)


class _Slot:
    """One caller: it makes the calls of a chain one after the other, then takes the next chain."""

    def __init__(self, connection: Connection, chains: Iterator[Sequence[Request]], tally: Tally) -> None:
        self._connection = connection
        self._chains = chains
        self._tally = tally
        self._calls: Iterator[Request] = iter(())
        self._began = 0.0
        self.idle = False

    def go_on(self) -> None:
        """Make the next call."""
        request = next(self._calls, None)
        if request is None:
            chain = next(self._chains, None)
            if chain is None:
                self.idle = True
                return
            self._calls = iter(chain)
            request = next(self._calls)
        self._began = time.monotonic()
        stream = self._connection.open(headers(request.method), self)
        self._connection.send(stream, request.body, end=True)

    def received(self, payload: bytes) -> None:
        """Nothing of it is looked at: servers are judged by counters, and decoding would cost the load's processor."""

    def ended(self, problem: str) -> None:
        now = time.monotonic()
        tally = self._tally
        if problem:
            tally.refuse(problem)
        else:
            tally.answered += 1
            tally.began.append(self._began)
            tally.took.append(now - self._began)
        self.go_on()


_HEADERS: dict[str, bytes] = {}


def headers(method: str) -> bytes:
    """The header block of a method, made once."""
    if method not in _HEADERS:
        _HEADERS[method] = header_block(SERVICE + method)
    return _HEADERS[method]


def connected(address: str, count: int) -> list[Connection]:
    """Connections to a server; where ``address`` names several, separated by commas, spread over all of them."""
    addresses = address.split(",")
    return [Connection(addresses[number % len(addresses)]) for number in range(count)]


def _until(chains: Sequence[Sequence[Request]], deadline: float) -> Iterator[Sequence[Request]]:
    for chain in cycle(chains):
        if time.monotonic() >= deadline:
            return
        yield chain


def calls(
    address: str, chains: Sequence[Sequence[Request]], *, connections: int, in_flight: int, seconds: float | None = None
) -> Tally:
    """Make every chain of calls once, ``in_flight`` chains at a time; with ``seconds`` go round them for that long."""
    connections = max(connections, -(-in_flight // CONNECTION_STREAMS_MAX))
    open_connections = connected(address, connections)
    poller = Poller(open_connections)
    tally = Tally()
    cpu, began = time.process_time(), time.monotonic()
    left = iter(chains) if seconds is None else _until(chains, began + seconds)
    slots = [_Slot(open_connections[number % connections], left, tally) for number in range(in_flight)]
    for slot in slots:
        slot.go_on()
    in_time = poller.run(lambda: all(slot.idle for slot in slots), 600.0)
    tally.seconds, tally.cpu = time.monotonic() - began, time.process_time() - cpu
    poller.close()
    if not in_time:
        tally.refuse("the calls did not end in time")
    return tally


class Batches:
    """One stream of batches, several under way."""

    def __init__(self, connection: Connection, bodies: Sequence[bytes], under_way: int, tally: Tally) -> None:
        self._connection = connection
        self._bodies = iter(bodies)
        self._began: list[float] = []
        self._tally = tally
        self._messages = Messages(self._answered)
        self.answers: list[bytes] = []
        self.is_over = False
        self._stream = connection.open(headers("StreamUpdates"), self)
        for _ in range(under_way):
            self._send()

    def _send(self) -> None:
        body = next(self._bodies, None)
        if body is not None:
            self._began.append(time.monotonic())
            self._connection.send(self._stream, body, end=False)
        elif len(self.answers) == len(self._began):
            self._connection.send(self._stream, None, end=True)

    def _answered(self, message: bytes) -> None:
        began = self._began[len(self.answers)]
        self.answers.append(message)
        self._tally.began.append(began)
        self._tally.took.append(time.monotonic() - began)
        self._send()

    def received(self, payload: bytes) -> None:
        self._messages.add(payload)

    def ended(self, problem: str) -> None:
        self.is_over = True
        if problem:
            self._tally.refuse(problem)


def batches(address: str, streams: Sequence[Sequence[bytes]], *, under_way: int) -> tuple[Tally, list[bytes]]:
    """Send the batches of each stream over a connection of its own; also returns all answers."""
    connections = connected(address, len(streams))
    poller = Poller(connections)
    tally = Tally()
    cpu, began = time.process_time(), time.monotonic()
    open_streams = [
        Batches(connection, bodies, under_way, tally) for connection, bodies in zip(connections, streams, strict=True)
    ]
    in_time = poller.run(lambda: all(stream.is_over for stream in open_streams), 900.0)
    tally.seconds, tally.cpu = time.monotonic() - began, time.process_time() - cpu
    poller.close()
    if not in_time:
        tally.refuse("the batches were not answered in time")
    return tally, [answer for stream in open_streams for answer in stream.answers]
