"""Bounds what gRPC has received and nobody has read, by closing the connections that sent most of it.

gRPC receives a whole message for each call that reads, and does not say how much of it has arrived. A read cannot be
taken back, and every idle stream has one pending. So this measures what has arrived instead of limiting what might: the
system counts the bytes that each connection has received, and we count those that were read.

It runs in a thread of its own, because megabytes arrive while the event loop does something else.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import termios
import threading
from contextlib import suppress
from typing import NamedTuple

from jobstate_server.domain.limits import MEBIBYTE
from jobstate_server.rpc.connections import Address, address_of, connected, end_connections

log = logging.getLogger(__name__)

CHECK_S = 0.025
"""Seconds between two checks of this process's memory. A network of 10 Gbit/s brings 30 MiB meanwhile."""

MEASURE_CHECKS = 40
"""Checks between two measurements of all connections: a second. It takes some 10 ms for 1,000 connections."""

SILENT_TURNS_MAX = 5
"""Seconds without a check after which the thread hangs."""

GROWTH_BYTES = 4 * MEBIBYTE
"""While memory is short, all connections are also measured whenever it has grown by this much."""

CALL_BYTES = 1024
"""Bytes of a connection that are attributed to each of its calls, besides the request: headers, window updates."""

_STATM = "/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_TCP_INFO_BYTES = 136
_BYTES_RECEIVED = struct.Struct("=Q")
_BYTES_RECEIVED_AT = 128
"""Where ``tcpi_bytes_received`` is in Linux's ``struct tcp_info``."""


class _Measured(NamedTuple):
    """One connection when it was last measured."""

    received: int
    """Bytes that gRPC has received from it."""
    read: int
    """Bytes of it that were read, or belong to no request."""
    unread: int


_NEW = _Measured(0, 0, 0)


class ReceiveBuffers:
    """The bytes that gRPC has received. Threads: ``count_read`` is for the event loop's, everything else for any."""

    def __init__(self, unread_max: int, memory_short: int) -> None:
        """
        Args:
            unread_max: bytes that may be unread while memory is short.
            memory_short: bytes of resident memory from which on it is short.
        """
        self.port = 0
        """The port for callers. While it is 0 nothing is measured."""
        self._unread_max = unread_max
        self._memory_short = memory_short
        self._read: dict[str, int] = {}
        """Bytes that were read, by peer as gRPC names it."""
        self._measured: dict[Address, _Measured] = {}
        self._checks = 0
        self._checks_seen = 0
        self._silent_turns = 0
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

    def _run(self) -> None:
        while not self._stopping.wait(CHECK_S) and threading.current_thread() is self._thread:
            self.check()

    def check(self) -> None:
        """Measure if it is time to, and close connections if too much is unread while memory is short."""
        self._checks += 1
        if not self.port:
            return
        is_due = self._checks % MEASURE_CHECKS == 0
        resident = _resident_bytes()
        is_short = resident >= self._memory_short
        if is_due or (is_short and resident >= self._resident + GROWTH_BYTES):
            self._resident = resident
            self.measure()
            if is_short:
                self._end_largest()

    def measure(self) -> int:
        """Measure all connections. Returns the bytes that are unread."""
        read = {address_of(peer): (peer, size) for peer, size in self._read.copy().items()}
        before, self._measured = self._measured, {}
        for address, port, number in connected():
            received = _bytes_received(number) if port == self.port else None
            if received is not None:
                _, counted = read.pop(address, ("", 0))
                last = before.get(address, _NEW)
                if received < last.received or counted < last.read:
                    # Another connection with the same address as one that is gone.
                    last = _NEW
                unread = max(0, last.unread + received - last.received - (counted - last.read))
                self._measured[address] = _Measured(received, counted, unread)
        for peer, _ in read.values():
            # This connection is gone.
            self._read.pop(peer, None)
        return sum(connection.unread for connection in self._measured.values())

    def _end_largest(self) -> None:
        """Close the connections with the most unread bytes until few enough are left."""
        unread = sum(connection.unread for connection in self._measured.values())
        closed: list[Address] = []
        for address, connection in sorted(self._measured.items(), key=lambda item: item[1].unread, reverse=True):
            if unread <= self._unread_max:
                break
            unread -= connection.unread
            closed.append(address)
        if closed and (ended := end_connections(closed)):
            log.warning(
                "connections were closed because they sent more than there was memory for",
                extra={"connections": ended, "resident_bytes": self._resident},
            )


def _resident_bytes() -> int:
    """Resident memory of this process. 0 if the system does not tell."""
    with suppress(OSError, ValueError, IndexError), open(_STATM, "rb", buffering=0) as statm:
        return int(statm.read(128).split()[1]) * _PAGE_BYTES
    return 0


def _bytes_received(number: int) -> int | None:
    """Bytes that gRPC has taken from the connection with this descriptor. None if the system does not tell."""
    waiting = bytearray(4)
    try:
        connection = socket.socket(fileno=number)
    except OSError:
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        fcntl.ioctl(number, termios.FIONREAD, waiting)
    except OSError:
        return None
    finally:
        connection.detach()
    if len(info) < _TCP_INFO_BYTES:
        return None
    return int(_BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_AT)[0]) - int.from_bytes(waiting, "little")
