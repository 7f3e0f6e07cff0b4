"""Attackers: clients by hand-made HTTP/2 that take all they can get, and go on until they are told to stop.

One process drives them all, without a thread or a wait of its own for any. What it sends is prepared beforehand, and a
connection that the server closes is opened again a second later. So it is the server that the processors work for.
"""

from __future__ import annotations

import gzip
import multiprocessing
import os
import select
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from jobstate.v1 import job_service_pb2 as pb

from ..bench.drivers import headers
from ..bench.http2 import Broken, Connection, framed, header_block
from ..bench.messages import SERVICE

STREAMS = 100
"""Streams that a server allows one connection."""

BODY_BYTES = 8 * 1024 * 1024
"""A request as large as a server takes."""

TURN_S = 0.02
"""From one look at the connections to the next where several attacks share a process."""

AGAIN_S = 1.0
"""After which a connection that was closed is opened again."""

PATIENCE_S = 2.0
"""How long a connection may take to open."""

OPENED_A_TURN = 5

CONNECTIONS_MAX = 60
"""Connections of each crowd where several attacks share the thousand that a server takes."""

Begin = Callable[[Connection], None]

_HEADERS, _RST_STREAM = 1, 3
_END_HEADERS, _END_STREAM = 4, 1


class Nothing:
    """The client's side of a stream of which nothing is looked at."""

    def received(self, payload: bytes) -> None:
        """Nothing."""

    def ended(self, problem: str) -> None:
        """Nothing."""


class Unreading(Connection):
    """A connection whose streams have no window: no answer is ever read."""

    @staticmethod
    def _settings() -> bytes:
        return b"".join(struct.pack(">HI", key, value) for key, value in {1: 0, 2: 0, 4: 0}.items())


class Deaf(Connection):
    """A connection on which nothing that comes is looked at."""

    def receive(self) -> None:
        """Take what has come. Raises Broken when the connection is over."""
        if not self._acknowledged:
            super().receive()
            return
        with suppress(BlockingIOError):
            if not self.socket.recv(1 << 18):
                raise Broken("the server closed the connection")


class Silent(Deaf):
    """A connection on which nothing is ever sent, not even HTTP/2's greeting."""

    def __init__(self, address: str, patience_s: float | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), patience_s)
        self.socket.setblocking(False)
        self._acknowledged = True
        self._out = bytearray()


@dataclass
class Crowd:
    """Connections that all do the same."""

    count: int
    begin: Begin
    kind: type[Connection] = Connection
    again: Begin | None = None
    """What each does at every turn, besides."""


class Place:
    """Where one connection of a crowd is, or will be."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.connection: Connection | None = None

    def open(self, address: str) -> Connection | None:
        """Connect, and begin. Returns the connection unless that failed."""
        connection = None
        try:
            connection = self.crowd.kind(address, PATIENCE_S)
            self.crowd.begin(connection)
        except (OSError, Broken, KeyError):
            if connection is not None:
                connection.close()
            return None
        self.connection = connection
        return connection

    def turn(self, has_come: bool) -> bool:
        """Read, write, go on. Returns whether the connection is still open."""
        connection = self.connection
        assert connection is not None
        try:
            if has_come:
                connection.receive()
            if self.crowd.again is not None:
                self.crowd.again(connection)
            connection.flush()
        except (OSError, Broken, KeyError):
            connection.close()
            self.connection = None
            return False
        return True


def attack(address: str, crowds: Sequence[Crowd], turn_s: float, seconds: float = 3600.0) -> None:
    """Attack, over a connection for each mention of a crowd. All are closed in the end."""
    poll = select.epoll()
    at: dict[int, Place] = {}
    closed = deque((0.0, Place(crowd)) for crowd in crowds)
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        for _ in range(OPENED_A_TURN):
            if not closed or closed[0][0] > now:
                break
            _, place = closed.popleft()
            if (opened := place.open(address)) is None:
                closed.append((now + AGAIN_S, place))
            else:
                at[opened.fileno()] = place
                poll.register(opened.fileno(), select.EPOLLIN)
        threading.Event().wait(turn_s)
        come = {number for number, _ in poll.poll(0.0 if turn_s else 0.05)}
        for number, place in tuple(at.items()):
            connection = place.connection
            assert connection is not None
            has_work = number in come or connection.wants_to_write or place.crowd.again is not None
            if has_work and not place.turn(number in come):
                del at[number]
                closed.append((now + AGAIN_S, place))
    for place in at.values():
        assert place.connection is not None
        place.connection.close()


def mixed(crowds: Sequence[Crowd], most: int) -> list[Crowd]:
    """Each crowd once for each of its connections, in turn, so that none waits for all of another."""
    longest = min(most, max(crowd.count for crowd in crowds))
    return [crowd for number in range(longest) for crowd in crowds if number < crowd.count]


def one_by_one(crowds: Sequence[Crowd]) -> list[Crowd]:
    """Each crowd once for each of its connections, a crowd after the other."""
    return [crowd for crowd in crowds for _ in range(crowd.count)]


def _each(method: str, body: bytes, streams: int = STREAMS) -> Begin:
    """So many calls of a method."""

    def begin(connection: Connection) -> None:
        for _ in range(streams):
            connection.send(connection.open(headers(method), Nothing()), body, end=True)
        connection.flush()

    return begin


def headers_only() -> list[Crowd]:
    """Calls of which only the headers come, as many as are let in."""

    def begin(connection: Connection) -> None:
        for _ in range(STREAMS):
            connection.open(headers("Create"), Nothing())
        connection.flush()

    return [Crowd(400, begin)]


def headers_of_probes() -> list[Crowd]:
    """The same of health checks and watches of health."""
    check, watch = (header_block(f"/grpc.health.v1.Health/{method}") for method in ("Check", "Watch"))

    def begin(connection: Connection) -> None:
        for _ in range(STREAMS // 2):
            connection.open(check, Nothing())
            connection.open(watch, Nothing())
        connection.flush()

    return [Crowd(400, begin)]


def unfinished_bodies() -> list[Crowd]:
    """Requests of the largest size, one byte short."""
    body = framed(bytes(BODY_BYTES))[:-1]

    def begin_of(method: str) -> Begin:
        def begin(connection: Connection) -> None:
            connection.send_raw(connection.open(headers(method), Nothing()), body, end=False)
            connection.flush()

        return begin

    return [Crowd(20, begin_of("Create")), Crowd(20, begin_of("BatchCreate"))]


def unfinished_probes() -> list[Crowd]:
    """The same of methods that are not about jobs."""
    body = framed(bytes(BODY_BYTES))[:-1]
    methods = ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")

    def begin(connection: Connection) -> None:
        for method in methods * 5:
            connection.send_raw(connection.open(header_block(method), Nothing()), body, end=False)
        connection.flush()

    return [Crowd(10, begin)]


def unread_pages() -> list[Crowd]:
    """Pages of List that nobody reads."""
    return [Crowd(30, _each("List", pb.ListRequest(page_size=1_000).SerializeToString()), Unreading)]


def unread_answers() -> list[Crowd]:
    """Answers of Get that nobody reads."""
    return [Crowd(60, _each("Get", pb.GetRequest(id="large-0").SerializeToString()), Unreading)]


def unread_snapshots() -> list[Crowd]:
    """Snapshots of watches that nobody reads."""
    return [Crowd(30, _each("WatchEvents", pb.WatchEventsRequest(snapshot=True).SerializeToString()), Unreading)]


def unread_updates() -> list[Crowd]:
    """Streams of updates whose outcomes nobody reads."""
    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="none", attempt=1))
    batch = framed(pb.StreamUpdatesRequest(updates=[update] * 1_000).SerializeToString())

    def begin(connection: Connection) -> None:
        stream = connection.open(headers("StreamUpdates"), Nothing())
        for _ in range(200):
            connection.send_raw(stream, batch, end=False)
        connection.flush()

    return [Crowd(32, begin, Unreading)]


def _calls(block: bytes, body: bytes, streams: int = STREAMS) -> Begin:
    """Calls, each followed by another as soon as it has been answered."""
    message = framed(body)

    def begin(connection: Connection) -> None:
        class Again(Nothing):
            def ended(self, problem: str) -> None:
                connection.send_raw(connection.open(block, Again()), message, end=True)

        for _ in range(streams):
            connection.send_raw(connection.open(block, Again()), message, end=True)
        connection.flush()

    return begin


def large_batches() -> list[Crowd]:
    """Honest callers whose batches are as large as may be."""
    item = pb.CreateRequest(job_type="x")
    item.metadata["text"] = "m" * 8_000
    body = pb.BatchCreateRequest(requests=[item] * 950).SerializeToString()
    assert len(body) < BODY_BYTES
    return [Crowd(16, _calls(headers("BatchCreate"), body, 1))]


def large_updates() -> list[Crowd]:
    """Streams of updates, many over each connection, whose batches are as large as may be."""
    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="none", attempt=1, message="m" * 4_000))
    batch = framed(pb.StreamUpdatesRequest(updates=[update] * 1_000).SerializeToString())

    def begin(connection: Connection) -> None:
        for _ in range(20):
            connection.send_raw(connection.open(headers("StreamUpdates"), Nothing()), batch, end=False)
        connection.flush()

    return [Crowd(10, begin, Unreading)]


def compressed() -> list[Crowd]:
    """Requests that grow a thousandfold when they are unpacked."""
    packed = gzip.compress(bytes(BODY_BYTES), 9)
    block = headers("BatchCreate") + b"\0\x0dgrpc-encoding\x04gzip"
    body = b"\1" + len(packed).to_bytes(4, "big") + packed

    def begin(connection: Connection) -> None:
        for _ in range(10):
            connection.send_raw(connection.open(block, Nothing()), body, end=True)
        connection.flush()

    return [Crowd(20, begin)]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def resets() -> list[Crowd]:
    """Calls that are reset at once, as fast as they can be made, over two connections.

    They have no requests: of those the server would take only as many as its window allows.
    """
    block = headers("Get")

    def again(connection: Connection) -> None:
        if connection.wants_to_write:
            return
        for _ in range(200):
            stream = connection._next_stream
            connection._next_stream += 2
            connection._out += _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, block)
            connection._out += _frame(_RST_STREAM, 0, stream, (8).to_bytes(4, "big"))

    return [Crowd(2, lambda _: None, Deaf, again)]


def unknown_methods() -> list[Crowd]:
    """Calls of methods that there are not."""
    return [Crowd(2, _calls(header_block(SERVICE + "Nothing"), b""))]


def large_headers() -> list[Crowd]:
    """Calls with headers as large as are let in, and larger."""
    block = headers("Get") + b"".join(
        b"\0\x05x-%03d\x7f\x80\x1e" % n + bytes(4_095).replace(b"\0", b"v") for n in range(3)
    )
    return [Crowd(4, _calls(block, pb.GetRequest(id="large-0").SerializeToString(), 20))]


def calls() -> list[Crowd]:
    """Ordinary calls of Get, as many at once as two connections take."""
    return [Crowd(2, _calls(headers("Get"), pb.GetRequest(id="large-0").SerializeToString()))]


def silent_connections() -> list[Crowd]:
    """Connections on which nothing is ever sent, not even HTTP/2's greeting, or nothing after it."""
    return [Crowd(750, lambda _: None, Silent), Crowd(750, lambda _: None)]


def _watch(connection: Connection, number: int) -> bytes:
    names = [f"{id(connection)}-{number}-{job}-{'n' * 80}" for job in range(1_000)]
    request = pb.WatchEventsRequest(job_ids=names)
    request.heartbeat_interval.seconds = 1
    return request.SerializeToString()


def watchers_of_many_jobs() -> list[Crowd]:
    """Watches that name as many jobs as they may."""

    def begin(connection: Connection) -> None:
        for number in range(STREAMS):
            connection.send(connection.open(headers("WatchEvents"), Nothing()), _watch(connection, number), end=True)
        connection.flush()

    return [Crowd(30, begin)]


ATTACKS: dict[str, Callable[[], list[Crowd]]] = {
    each.__name__: each
    for each in (
        headers_only,
        headers_of_probes,
        unfinished_bodies,
        unfinished_probes,
        unread_pages,
        unread_answers,
        unread_snapshots,
        unread_updates,
        large_batches,
        large_updates,
        compressed,
        resets,
        unknown_methods,
        large_headers,
        calls,
        silent_connections,
        watchers_of_many_jobs,
    )
}


def _attack(crowds_of: Sequence[Callable[[], list[Crowd]]], address: str, *, in_order: bool) -> None:
    os.nice(19)
    crowds = [crowd for each in crowds_of for crowd in each()]
    alone = len(crowds_of) == 1
    order = one_by_one(crowds) if alone or in_order else mixed(crowds, CONNECTIONS_MAX)
    attack(address, order, 0.0 if alone else TURN_S)


class Attackers:
    """A process that attacks, until the end of the ``with`` block."""

    def __init__(self, crowds_of: Sequence[Callable[[], list[Crowd]]], address: str, *, in_order: bool = False) -> None:
        """``in_order``: each attack has all its connections before the next begins."""
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(
            target=_attack, args=(crowds_of, address), kwargs={"in_order": in_order}, daemon=True
        )
        self._has_work = bool(crowds_of)

    def __enter__(self) -> Self:
        if self._has_work:
            self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._has_work:
            assert self._process.pid is not None
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.join()
