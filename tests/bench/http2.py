"""A gRPC connection for load: HTTP/2 frames made and read by hand, and nothing more than a benchmark needs.

A client that is not much lighter than the server measures itself. grpc.aio costs a client as much per call as it costs
the server; this costs about a tenth, as h2load does, and unlike h2load it can send a different body with every call,
keep streams open and see the grpc-status of every answer.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

_FRAME = struct.Struct(">HBBBI")
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE = 1, 2, 4
_WINDOW_MAX = 2**31 - 1
_WINDOW_RENEWED_AFTER = 2**28
_FRAME_BYTES_MAX = 16_384
_RECEIVE_BYTES = 1 << 18
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_STATUS_OK = b"\x0bgrpc-status\x010"
"""As a header block holds it when the peer may use neither a table nor, as gRPC's C core does not, Huffman's code."""

OK = ""
"""What ``Exchange.ended`` is told of a stream that ended well."""


class Broken(Exception):
    """The server ended the connection, or spoke of an error of ours."""


class Exchange(Protocol):
    """The client's side of one stream."""

    def received(self, payload: bytes) -> None:
        """Bytes of the response, cut anywhere."""

    def ended(self, problem: str) -> None:
        """The stream is over; ``problem`` is ``OK`` or what the trailers said instead."""


def _frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header that is not to be indexed; both lengths below 127 fit one byte."""
    assert len(name) < 127
    assert len(value) < 127
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def header_block(path: str) -> bytes:
    """The request headers of a call of a method, such as ``/jobstate.v1.JobService/Get``."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(_literal(name, value) for name, value in headers.items())


def framed(message: bytes) -> bytes:
    """A message as gRPC frames it, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Connection:
    """One connection. It never blocks once open: whoever drives it calls ``receive`` and ``flush`` when it may."""

    def __init__(self, address: str, patience_s: float | None = None) -> None:
        """Connect, and exchange settings, each step within ``patience_s``.

        Raises:
            OSError: nobody listens.
            Broken: whoever listens does not speak HTTP/2.
        """
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), patience_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._out = bytearray()
        self._next_stream = 1
        self._exchanges: dict[int, Exchange] = {}
        self._unsent: deque[tuple[int, memoryview, int]] = deque()
        self._window = self._initial_window = 65_535
        self._windows: dict[int, int] = {}
        self._unacknowledged = 0
        self._acknowledged = False
        self._out += _PREFACE + _frame(_SETTINGS, 0, 0, self._settings())
        self._out += _frame(_WINDOW_UPDATE, 0, 0, (_WINDOW_MAX - 65_535).to_bytes(4, "big"))
        self.flush()
        while not self._acknowledged:
            self.receive()
            self.flush()
        self.socket.setblocking(False)

    @staticmethod
    def _settings() -> bytes:
        # Without a header table a status always reads the same.
        values = {_HEADER_TABLE_SIZE: 0, _ENABLE_PUSH: 0, _INITIAL_WINDOW_SIZE: _WINDOW_MAX}
        return b"".join(struct.pack(">HI", key, value) for key, value in values.items())

    @property
    def wants_to_write(self) -> bool:
        """Whether ``flush`` has anything to do."""
        return bool(self._out)

    def fileno(self) -> int:
        """For select and its kin."""
        return self.socket.fileno()

    def open(self, headers: bytes, exchange: Exchange) -> int:
        """Begin a stream and return its number."""
        stream = self._next_stream
        self._next_stream += 2
        self._exchanges[stream] = exchange
        self._windows[stream] = self._initial_window
        self._out += _FRAME.pack(len(headers) >> 8, len(headers) & 0xFF, _HEADERS, _END_HEADERS, stream) + headers
        return stream

    def send(self, stream: int, message: bytes | None, *, end: bool) -> None:
        """Send a message (None: none), as far as the peer's flow control allows now, the rest later."""
        self.send_raw(stream, b"" if message is None else framed(message), end=end)

    def send_raw(self, stream: int, body: bytes, *, end: bool) -> None:
        """Send bytes that are framed already, or are no whole message."""
        # A view, because a large body is sent in hundreds of pieces.
        self._unsent.append((stream, memoryview(body), _END_STREAM if end else 0))
        self._send_allowed()

    def _send_allowed(self) -> None:
        while self._unsent:
            stream, body, flags = self._unsent[0]
            allowed = min(self._window, self._windows.get(stream, 0), _FRAME_BYTES_MAX)
            if body and allowed <= 0:
                return
            piece, rest = body[:allowed], body[allowed:]
            self._window -= len(piece)
            if stream in self._windows:
                self._windows[stream] -= len(piece)
            self._out += _frame(_DATA, 0 if rest else flags, stream, piece)
            if rest:
                self._unsent[0] = (stream, rest, flags)
            else:
                self._unsent.popleft()

    def flush(self) -> None:
        """Write what can be written now."""
        try:
            while self._out:
                del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            return

    def receive(self) -> None:
        """Read what has come, and tell the exchanges.

        Raises:
            Broken: the connection is over.
        """
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise Broken("the server closed the connection")
        buffer = self._rest + data if self._rest else data
        position, size = 0, len(buffer)
        unpack = _FRAME.unpack_from
        while size - position >= 9:
            high, low, kind, flags, stream = unpack(buffer, position)
            stop = position + 9 + (high << 8 | low)
            if stop > size:
                break
            payload = buffer[position + 9 : stop]
            position = stop
            if kind == _DATA:
                self._unacknowledged += len(payload)
                self._exchanges[stream].received(payload)
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._end(stream, OK if _STATUS_OK in payload else repr(payload))
            else:
                self._control(kind, flags, stream, payload)
        self._rest = buffer[position:]
        if self._unacknowledged > _WINDOW_RENEWED_AFTER:
            self._out += _frame(_WINDOW_UPDATE, 0, 0, self._unacknowledged.to_bytes(4, "big"))
            self._unacknowledged = 0

    def _end(self, stream: int, problem: str) -> None:
        self._windows.pop(stream, None)
        exchange = self._exchanges.pop(stream, None)
        if exchange is not None:
            exchange.ended(problem)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            grown = int.from_bytes(payload, "big")
            if stream:
                if stream in self._windows:
                    self._windows[stream] += grown
            else:
                self._window += grown
            self._send_allowed()
        elif kind == _SETTINGS:
            self._settle(flags, payload)
        elif kind == _PING and not flags & _ACK:
            self._out += _frame(_PING, _ACK, 0, payload)
        elif kind == _RST_STREAM:
            self._end(stream, f"reset with code {int.from_bytes(payload, 'big')}")
        elif kind == _GOAWAY:
            raise Broken(f"the server says to go away: {payload[8:]!r}")

    def _settle(self, flags: int, payload: bytes) -> None:
        if flags & _ACK:
            self._acknowledged = True
            return
        for key, value in struct.iter_unpack(">HI", payload):
            if key == _INITIAL_WINDOW_SIZE:
                for stream in self._windows:
                    self._windows[stream] += value - self._initial_window
                self._initial_window = value
        self._out += _frame(_SETTINGS, _ACK, 0, b"")

    def close(self) -> None:
        """End the connection, and with it every stream."""
        self.socket.close()


class Messages:
    """Puts messages together again that came cut anywhere."""

    def __init__(self, arrived: Callable[[bytes], None]) -> None:
        self._arrived = arrived
        self._buffer = b""

    def add(self, payload: bytes) -> None:
        """Take further bytes, and hand on every message they complete."""
        buffer = self._buffer + payload if self._buffer else payload
        position = 0
        while len(buffer) - position >= 5:
            stop = position + 5 + int.from_bytes(buffer[position + 1 : position + 5], "big")
            if stop > len(buffer):
                break
            self._arrived(buffer[position + 5 : stop])
            position = stop
        self._buffer = buffer[position:]
