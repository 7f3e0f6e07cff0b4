"""Ends connections that stand in the way of others, which gRPC's asyncio server cannot.

There a status waits behind an answer that nobody reads, and a connection that has said its greeting may be silent for
minutes while new ones are closed as they come.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress

log = logging.getLogger(__name__)

_OPEN_FILES = "/proc/self/fd"

_IPV4_IN_IPV6 = "::ffff:"
"""How a socket for both families names a peer that came by IPv4."""

UNUSED_TURNS = 2
"""Seconds for which a connection may exist without a call before it gives way to others: a client connects to call."""

IDLE_TURNS = 10
"""Seconds without a call after which a connection that has had some gives way to others. It is opened again at the
next one."""

Address = tuple[str, int]
"""Host and port of a peer."""


class Connections:
    """The connections of callers. Belongs on the event loop's thread, and is driven by the watchdog's turns."""

    def __init__(self, connections_max: int) -> None:
        self.port = 0
        """Where callers connect to. Nothing is done while it is 0."""
        self._tight = connections_max * 7 // 8
        self._aim = connections_max * 3 // 4
        self._open_calls: list[Callable[[], Iterable[str]]] = []
        self._called: set[str] = set()
        """Peers that have made a call since the last turn."""
        self._used: set[Address] = set()
        """Peers that have ever made one."""
        self._idle: dict[Address, int] = {}
        """For how many turns each connection has had no call. Kept only while there are many."""
        self._ending: set[str] = set()

    def count_as_used(self, open_calls: Callable[[], Iterable[str]]) -> None:
        """Leave connections alone whose peers, as gRPC names them, are in what this returns: they have calls open."""
        self._open_calls.append(open_calls)

    def called(self, peer: str) -> None:
        """Take note of a call."""
        self._called.add(peer)

    def end(self, peer: str) -> None:
        """End the connection of a peer, and with it all of its calls. All that are to be ended now are ended at once:
        finding them takes some milliseconds."""
        if not self._ending:
            asyncio.get_running_loop().call_soon(self._end_all)
        self._ending.add(peer)

    def _end_all(self) -> None:
        peers, self._ending = self._ending, set()
        ended = end_connections(filter(None, map(_address, peers)))
        if ended:
            log.warning("connections were ended because answers were not read", extra={"connections": ended})

    def turn(self) -> None:
        """A second has passed: when connections become scarce, end those that are of no use."""
        called, self._called = self._called, set()
        self._used.update(filter(None, map(_address, called)))
        if not self.port or (len(_open_files()) < self._tight and len(self._used) < 4 * self._tight):
            self._idle.clear()
            return
        present = {peer for peer, port, _ in _connected() if port == self.port}
        self._used &= present
        busy = set(filter(None, map(_address, called.union(*(open_calls() for open_calls in self._open_calls)))))
        self._idle = {peer: self._idle.get(peer, 0) + 1 for peer in present - busy}
        surplus = len(present) - self._aim if len(present) >= self._tight else 0
        if surplus > 0 and (useless := self._useless(surplus)):
            ended = end_connections(useless)
            log.warning("connections without calls were ended to let others in", extra={"connections": ended})

    def _useless(self, count: int) -> list[Address]:
        """Those to end first: which never made a call, then which made none for longest."""
        unused = [(0, -age, peer) for peer, age in self._idle.items() if age >= UNUSED_TURNS and peer not in self._used]
        idle = [(1, -age, peer) for peer, age in self._idle.items() if age >= IDLE_TURNS and peer in self._used]
        return [peer for _, _, peer in sorted(unused + idle)[:count]]


def end_connections(peers: Iterable[Address]) -> int:
    """End the TCP connections of these peers. Returns how many there were.

    There are none where the system does not list our open files.
    """
    wanted: Collection[Address] = set(peers)
    ended = 0
    for _, _, number in [found for found in _connected() if found[0] in wanted]:
        # A descriptor of our own, so that no other file is hit that has taken the number meanwhile.
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            if _peer(connection) in wanted:
                connection.shutdown(socket.SHUT_RDWR)
                ended += 1
    return ended


def _connected() -> Iterator[tuple[Address, int, int]]:
    """Peer, local port and descriptor of every TCP connection of this process."""
    for number in map(int, _open_files()):
        try:
            # Looked at under its own number, which is much faster than a copy; it must not be closed by this.
            connection = socket.socket(fileno=number)
        except OSError:
            continue
        try:
            if connection.family in {socket.AF_INET, socket.AF_INET6} and connection.type == socket.SOCK_STREAM:
                yield _peer(connection), connection.getsockname()[1], number
        except OSError:
            # It listens, or its peer has gone.
            continue
        finally:
            connection.detach()


def _open_files() -> list[str]:
    """The numbers of all open files. None where the system does not list them."""
    try:
        return os.listdir(_OPEN_FILES)
    except OSError:
        return []


def _peer(connection: socket.socket) -> Address:
    host, port, *_ = connection.getpeername()
    return host.removeprefix(_IPV4_IN_IPV6), port


def _address(peer: str) -> Address | None:
    """Host and port in ``ipv4:HOST:PORT`` or ``ipv6:%5BHOST%5D:PORT``; None when it has none."""
    family, _, rest = urllib.parse.unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if family not in {"ipv4", "ipv6"} or not port.isdecimal():
        return None
    return host.strip("[]").removeprefix(_IPV4_IN_IPV6), int(port)
