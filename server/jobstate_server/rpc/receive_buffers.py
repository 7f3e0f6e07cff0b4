"""Bounds what gRPC has received and nobody has read, by closing the connections that sent most of it.

gRPC receives a whole message for each call that reads, and does not say how much of it has arrived. A read cannot be
taken back, and every idle stream has one pending. So this measures what has arrived instead of limiting what might: the
system counts the bytes that each connection has received, and we count those that were read.

Megabytes arrive while the event loop does something else, so a thread of its own checks. It needs the GIL, which on a
busy machine it does not get for long while the loop has it. So the loop checks as well, whenever it has received
something. A check never gives up the GIL.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import NamedTuple

from jobstate_server.domain.limits import MEBIBYTE
from jobstate_server.rpc.connections import Address, address_of, peer_address
from jobstate_server.rpc.system_calls import disconnect, resident_bytes, return_freed_memory
from jobstate_server.rpc.transport import FILES_RESERVED

log = logging.getLogger(__name__)

CHECK_S = 0.025
"""Seconds between two checks of this process's memory. A network of 10 Gbit/s brings 30 MiB meanwhile."""

MEASURE_CHECKS = 40
"""Checks between two measurements of all connections: a second. It takes some 5 ms for 1,000 connections."""

FILES_BEYOND = 64
"""How far beyond the last connection it looks for new ones. Systems give out the lowest number that is free."""

SILENT_TURNS_MAX = 5
"""Seconds without a check after which the thread hangs."""

GROWTH_BYTES = 4 * MEBIBYTE
"""While memory is short, all connections are also measured whenever it has grown by this much."""

RETURN_S = 0.2
"""Seconds between two returns of freed memory while memory is short. What a closed connection had is freed after some
50 ms."""

CALL_BYTES = 1024
"""Bytes of a connection that are attributed to each of its calls, besides the request: headers, window updates."""

_TCP_INFO_BYTES = 136
_BYTES_RECEIVED_AT = 128
"""Where ``tcpi_bytes_received`` is in Linux's ``struct tcp_info``."""

_SO_COOKIE = 57
"""The option of Linux that identifies a socket, which its descriptor does only until it is closed."""

_UINT64 = struct.Struct("=Q")


class _Measured(NamedTuple):
    """One connection when it was last measured."""

    address: Address | None
    """The peer. None if this is no connection of a caller."""
    number: int
    """The descriptor."""
    peer: str = ""
    """Its name in gRPC. Empty as long as no call was admitted."""
    received: int = 0
    """Bytes that the system has received from it."""
    read: int = 0
    """Bytes of it that were read, or belong to no request."""
    unread: int = 0


class ReceiveBuffers:
    """The bytes that gRPC has received. Threads: ``count_read`` is for the event loop's, everything else for any."""

    def __init__(
        self,
        unread_max: int,
        memory_short: int,
        has_calls: Callable[[str], bool] = lambda _peer: False,
        resident: Callable[[], int] = resident_bytes,
    ) -> None:
        """
        Args:
            unread_max: bytes that may be unread while memory is short.
            memory_short: bytes of resident memory from which on it is short.
            has_calls: whether a peer has open calls. Those of a closed connection keep memory until they are over.
            resident: returns the resident memory of this process in bytes, 0 if the system does not tell.
        """
        self.port = 0
        """The port for callers. While it is 0 nothing is measured."""
        self._unread_max = unread_max
        self._memory_short = memory_short
        self._has_calls = has_calls
        self._resident_now = resident
        self._read: dict[str, int] = {}
        """Bytes that were read, by peer as gRPC names it."""
        self._measured: dict[int, _Measured] = {}
        """By the identity of the socket."""
        self._closed: dict[str, int] = {}
        """What was unread of the connections that were closed and whose calls are not over, by peer."""
        self._last_file = FILES_RESERVED
        """The highest descriptor of a connection."""
        self._checking = threading.Lock()
        self._next_check = 0.0
        """When the event loop has to check, if the thread has not."""
        self._checks = 0
        self._checks_seen = 0
        self._silent_turns = 0
        self._is_short = False
        self._next_return = 0.0
        self._resident = 0
        """Resident memory at the last measurement."""
        self._stopping = threading.Event()
        self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="receive-buffers", daemon=True)

    def start(self) -> None:
        """Start to check."""
        self._thread.start()

    def stop(self) -> None:
        """Stop checking."""
        self._stopping.set()

    @property
    def dead(self) -> list[str]:
        """The thread's name when it has ended or hangs without having been stopped."""
        is_started = self._thread.ident is not None and not self._stopping.is_set()
        has_stopped = not self._thread.is_alive() or self._silent_turns >= SILENT_TURNS_MAX
        return [self._thread.name] if is_started and has_stopped else []

    def restart(self) -> None:
        """Replace a thread that has died or hangs. One that hangs ends as soon as it goes on."""
        if self.dead:
            self._silent_turns = 0
            self._thread = self._new_thread()
            self._thread.start()

    def turn(self) -> None:
        """Count a second in which the thread should have checked. Called by the watchdog."""
        self._silent_turns = self._silent_turns + 1 if self._checks == self._checks_seen else 0
        self._checks_seen = self._checks

    def count_read(self, peer: str, size: int) -> None:
        """Count bytes of this peer that have been read."""
        self._read[peer] = self._read.get(peer, 0) + size
        self.received()

    def received(self) -> None:
        """The event loop has received something: check if the thread is late."""
        if monotonic() >= self._next_check:
            self._check(is_due=False)

    def is_closed(self, peer: str) -> bool:
        """Whether the connection of this peer was closed, so that its requests need not be served."""
        return peer in self._closed

    def _run(self) -> None:
        while not self._stopping.wait(CHECK_S) and threading.current_thread() is self._thread:
            self.check()

    def check(self) -> None:
        """Measure if it is time to, and close connections if too much is unread while memory is short."""
        self._checks += 1
        self._check(is_due=self._checks % MEASURE_CHECKS == 0)
        if self._is_short and monotonic() >= self._next_return:
            self._next_return = monotonic() + RETURN_S
            return_freed_memory()

    def _check(self, *, is_due: bool) -> None:
        if not self.port or not self._checking.acquire(blocking=False):
            return
        try:
            self._next_check = monotonic() + CHECK_S
            resident = self._resident_now()
            self._is_short = is_short = resident >= self._memory_short
            if is_due or (is_short and resident >= self._resident + GROWTH_BYTES):
                self._resident = resident
                self.measure()
                if is_short:
                    self._end_largest()
        finally:
            self._checking.release()

    def measure(self) -> int:
        """Measure all connections. Returns the bytes that are unread."""
        read = {address_of(peer): (peer, size) for peer, size in self._read.copy().items()}
        before, self._measured = self._measured, {}
        number, end, self._last_file = -1, self._last_file, FILES_RESERVED
        while (number := number + 1) < end + FILES_BEYOND:
            with suppress(OSError, struct.error), _borrowed(number) as connection:
                cookie, received = _state_of(connection)
                old = before.get(cookie) or self._new(connection, number)
                peer, counted = read.pop(old.address, ("", 0))
                unread = max(0, old.unread + received - old.received - (counted - old.read))
                self._measured[cookie] = _Measured(old.address, number, peer, received, counted, unread)
                self._last_file = max(self._last_file, number)
                end = max(end, number)
        for peer, _ in read.values():
            # This connection is gone.
            self._read.pop(peer, None)
        self._closed = {peer: unread for peer, unread in self._closed.items() if self._has_calls(peer)}
        return self._unread

    def _new(self, connection: socket.socket, number: int) -> _Measured:
        address = None
        # A listening socket has no peer.
        with suppress(OSError):
            address = peer_address(connection) if connection.getsockname()[1] == self.port else None
        return _Measured(address, number)

    @property
    def _unread(self) -> int:
        return sum(connection.unread for connection in self._measured.values() if connection.address)

    def _end_largest(self) -> None:
        """Close the connections with the most unread bytes until few enough are left.

        What those have left that were closed before counts as well, but the others keep a quarter of the room.
        """
        room = max(self._unread_max // 4, self._unread_max - sum(self._closed.values()))
        unread = self._unread
        ended = 0
        for cookie, found in sorted(self._measured.items(), key=lambda item: item[1].unread, reverse=True):
            if unread <= room:
                break
            if found.address is None:
                continue
            unread -= found.unread
            with suppress(OSError, struct.error), _borrowed(found.number) as connection:
                if _state_of(connection)[0] == cookie and disconnect(found.number):
                    self._closed[found.peer] = found.unread
                    ended += 1
        if ended:
            log.warning(
                "connections were closed because they sent more than there was memory for",
                extra={"connections": ended, "resident_bytes": self._resident},
            )


@contextmanager
def _borrowed(number: int) -> Iterator[socket.socket]:
    """The socket with this descriptor, which stays gRPC's. Raises OSError if it is none."""
    connection = socket.socket(fileno=number)
    try:
        yield connection
    finally:
        connection.detach()


def _state_of(connection: socket.socket) -> tuple[int, int]:
    """The identity of a TCP connection, and how many bytes the system has received from it.

    Raises OSError or struct.error if it is no TCP connection, or the system does not tell.
    """
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    (cookie,) = _UINT64.unpack(connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _UINT64.size))
    (received,) = _UINT64.unpack_from(info, _BYTES_RECEIVED_AT)
    return cookie, received
