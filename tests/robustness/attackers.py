"""Attackers: clients by hand-made HTTP/2 that take all they can get, and go on until they are told to stop.

Each is a function that takes the server's address. A connection that the server closes is opened again.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
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

CONNECTION_S = 5.0
"""How long an attack may keep a connection that nothing happens on before it opens another."""

Attack = Callable[[str], None]

_DATA, _HEADERS, _RST_STREAM = 0, 1, 3
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


class Crowd:
    """Many connections, kept alive, opened anew where the server closes them."""

    def __init__(self, address: str, count: int, begin: Callable[[Connection], None], kind: type[Connection]) -> None:
        self._address, self._begin, self._kind = address, begin, kind
        self._connections: list[Connection | None] = [None] * count

    def run(self, seconds: float = 3600.0) -> None:
        """Attack."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            missing = [number for number, connection in enumerate(self._connections) if connection is None]
            for number in missing[:20]:
                with suppress(OSError, Broken):
                    self._connections[number] = connection = self._kind(self._address)
                    self._begin(connection)
            self._turn(0.05 if missing else 0.5)

    def _turn(self, seconds: float) -> None:
        open_now = {connection.fileno(): number for number, connection in enumerate(self._connections) if connection}
        poll = select.poll()
        for number in open_now:
            connection = self._connections[open_now[number]]
            assert connection is not None
            poll.register(number, select.POLLIN | (select.POLLOUT if connection.wants_to_write else 0))
        for number, _ in poll.poll(seconds * 1_000):
            at = open_now[number]
            connection = self._connections[at]
            assert connection is not None
            try:
                connection.receive()
                connection.flush()
            except (OSError, Broken, KeyError):
                connection.close()
                self._connections[at] = None


def _crowd(
    address: str, connections: int, begin: Callable[[Connection], None], kind: type[Connection] = Connection
) -> None:
    Crowd(address, connections, begin, kind).run()


def _each(method: str, body: bytes, streams: int = STREAMS) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        for _ in range(streams):
            connection.send(connection.open(headers(method), Nothing()), body, end=True)
        connection.flush()

    return begin


def headers_only(address: str) -> None:
    """Calls of which only the headers come, as many as are let in."""

    def begin(connection: Connection) -> None:
        for _ in range(STREAMS):
            connection.open(headers("Create"), Nothing())
        connection.flush()

    _crowd(address, 400, begin)


def unfinished_bodies(address: str) -> None:
    """Requests of the largest size, one byte short."""
    body = framed(bytes(BODY_BYTES))[:-1]

    def begin(connection: Connection) -> None:
        for _ in range(10):
            stream = connection.open(headers("BatchCreate"), Nothing())
            connection._unsent.append((stream, body, 0))
            connection._send_allowed()
        connection.flush()

    _crowd(address, 10, begin)


def unread_pages(address: str) -> None:
    """Pages of List that nobody reads."""
    _crowd(address, 30, _each("List", pb.ListRequest(page_size=1_000).SerializeToString()), Unreading)


def unread_answers(address: str) -> None:
    """Answers of Get that nobody reads."""
    _crowd(address, 60, _each("Get", pb.GetRequest(id="large-0").SerializeToString()), Unreading)


def unread_snapshots(address: str) -> None:
    """Snapshots of watches that nobody reads."""
    _crowd(address, 30, _each("WatchEvents", pb.WatchEventsRequest(snapshot=True).SerializeToString()), Unreading)


def unread_updates(address: str) -> None:
    """Streams of updates whose outcomes nobody reads."""
    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="none", attempt=1))
    batch = pb.StreamUpdatesRequest(updates=[update] * 1_000).SerializeToString()

    def begin(connection: Connection) -> None:
        stream = connection.open(headers("StreamUpdates"), Nothing())
        for _ in range(200):
            connection.send(stream, batch, end=False)
        connection.flush()

    _crowd(address, 32, begin, Unreading)


def large_batches(address: str) -> None:
    """Honest callers whose batches are as large as may be."""
    item = pb.CreateRequest(job_type="x")
    item.metadata["text"] = "m" * 8_000
    body = pb.BatchCreateRequest(requests=[item] * 950).SerializeToString()
    assert len(body) < BODY_BYTES

    def begin(connection: Connection) -> None:
        class Again(Nothing):
            def ended(self, problem: str) -> None:
                connection.send(connection.open(headers("BatchCreate"), Again()), body, end=True)

        connection.send(connection.open(headers("BatchCreate"), Again()), body, end=True)
        connection.flush()

    _crowd(address, 16, begin)


def compressed(address: str) -> None:
    """Requests that grow a thousandfold when they are unpacked."""
    packed = gzip.compress(bytes(BODY_BYTES), 9)
    block = headers("BatchCreate") + b"\0\x0dgrpc-encoding\x04gzip"
    body = b"\1" + len(packed).to_bytes(4, "big") + packed

    def begin(connection: Connection) -> None:
        for _ in range(10):
            connection._unsent.append((connection.open(block, Nothing()), body, _END_STREAM))
        connection._send_allowed()
        connection.flush()

    _crowd(address, 20, begin)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def resets(address: str) -> None:
    """Calls that are reset at once, as fast as they can be made, over two connections."""
    block, body = headers("Get"), framed(pb.GetRequest(id="large-0").SerializeToString())

    def begin(connection: Connection) -> None:
        connection.socket.setblocking(True)
        connection.socket.settimeout(1.0)

    connections: list[Connection] = []
    while True:
        while len(connections) < 2:
            with suppress(OSError, Broken):
                connections.append(Connection(address))
                begin(connections[-1])
        for connection in tuple(connections):
            out = bytearray()
            for _ in range(200):
                stream = connection._next_stream
                connection._next_stream += 2
                out += _frame(_HEADERS, _END_HEADERS, stream, block) + _frame(_DATA, _END_STREAM, stream, body)
                out += _frame(_RST_STREAM, 0, stream, (8).to_bytes(4, "big"))
            try:
                connection.socket.sendall(out)
                is_open = _emptied(connection.socket)
            except OSError:
                is_open = False
            if is_open:
                begin(connection)
            else:
                connection.close()
                connections.remove(connection)


def _emptied(source: socket.socket) -> bool:
    """Read what is there. Returns whether the connection is still open."""
    source.setblocking(False)
    try:
        while source.recv(1 << 18):
            pass
    except BlockingIOError:
        return True
    return False


def _flood(address: str, block: bytes, body: bytes, connections: int, streams: int) -> None:
    """Calls, each followed by another as soon as it has been answered."""

    def begin(connection: Connection) -> None:
        class Again(Nothing):
            def ended(self, problem: str) -> None:
                connection.send(connection.open(block, Again()), body, end=True)

        for _ in range(streams):
            connection.send(connection.open(block, Again()), body, end=True)
        connection.flush()

    _crowd(address, connections, begin)


def unknown_methods(address: str) -> None:
    """Calls of methods that there are not."""
    _flood(address, header_block(SERVICE + "Nothing"), b"", 2, STREAMS)


def large_headers(address: str) -> None:
    """Calls with headers as large as are let in, and larger."""
    block = headers("Get") + b"".join(
        b"\0\x05x-%03d\x7f\x80\x1e" % n + bytes(4_095).replace(b"\0", b"v") for n in range(3)
    )
    _flood(address, block, pb.GetRequest(id="large-0").SerializeToString(), 4, 20)


def calls(address: str) -> None:
    """Ordinary calls of Get, as many at once as two connections take."""
    _flood(address, headers("Get"), pb.GetRequest(id="large-0").SerializeToString(), 2, STREAMS)


def silent_connections(address: str) -> None:
    """Connections on which nothing is ever sent, not even HTTP/2's greeting, or nothing after it."""
    host, _, port = address.rpartition(":")
    held: list[socket.socket] = []
    while True:
        with suppress(OSError):
            for number in range(1_500):
                opened = socket.create_connection((host, int(port)), 1.0)
                if number % 2:
                    opened.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
                held.append(opened)
        threading.Event().wait(CONNECTION_S)
        for opened in held[:750]:
            opened.close()
        del held[:750]


def watchers_of_many_jobs(address: str) -> None:
    """Watches that name as many jobs as they may."""

    def begin(connection: Connection) -> None:
        for number in range(STREAMS):
            names = [f"{id(connection)}-{number}-{job}-{'n' * 80}" for job in range(1_000)]
            request = pb.WatchEventsRequest(job_ids=names)
            request.heartbeat_interval.seconds = 1
            connection.send(connection.open(headers("WatchEvents"), Nothing()), request.SerializeToString(), end=True)
        connection.flush()

    _crowd(address, 30, begin)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        headers_only,
        unfinished_bodies,
        unread_pages,
        unread_answers,
        unread_snapshots,
        unread_updates,
        large_batches,
        compressed,
        resets,
        unknown_methods,
        large_headers,
        calls,
        silent_connections,
        watchers_of_many_jobs,
    )
}


def _attack(name: str, address: str) -> None:
    os.nice(10)
    ATTACKS[name](address)


class Attackers:
    """Processes that attack, until the end of the ``with`` block."""

    def __init__(self, names: Sequence[str], address: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = [
            context.Process(target=_attack, args=(name, address), daemon=True) for name in names
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
