"""Closes connections that block others, which gRPC's asyncio server cannot do.

There a status waits behind an answer that the client does not read, and a connection may be silent for minutes after
its handshake while new connections are refused.
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
"""The prefix of IPv4 peers on a socket for both families."""

UNUSED_TURNS = 2
"""Seconds after which a connection that never had a call may be closed for others: a client connects to make calls."""

IDLE_TURNS = 10
"""Seconds without a call after which another connection may be closed for others. The client opens a new one for its
next call."""

Address = tuple[str, int]
"""Host and port of a peer."""


class Connections:
    """The connections of callers. Call it on the event loop's thread. The watchdog calls ``turn``."""

    def __init__(self, connections_max: int) -> None:
        self.port = 0
        """The port for callers. While it is 0 no connection is closed."""
        self._tight = connections_max * 7 // 8
        self._aim = connections_max * 3 // 4
        self._open_calls: list[Callable[[], Iterable[str]]] = []
        self._called: set[str] = set()
        """Peers that have made a call since the last turn."""
        self.called: Callable[[str], None] = self._called.add
        """Notes a call of a peer. Not a method, because every call comes by here."""
        self._used: set[Address] = set()
        """Peers that have ever made a call."""
        self._idle: dict[Address, int] = {}
        """For how many turns each connection has had no call. Counted only while there are many connections."""
        self._ending: dict[str, str] = {}
        """Why each of these peers' connections is to be closed."""

    def count_as_used(self, open_calls: Callable[[], Iterable[str]]) -> None:
        """Never close connections for others whose peers, as gRPC names them, are in ``open_calls()``."""
        self._open_calls.append(open_calls)

    def end(self, peer: str, reason: str = "answers were not read") -> None:
        """Close the connection of a peer, which ends all of its calls. ``reason`` is logged.

        Connections are closed together on the next turn of the loop, because it takes some milliseconds to find them.
        """
        if not self._ending:
            asyncio.get_running_loop().call_soon(self._end_all)
        self._ending[peer] = reason

    def _end_all(self) -> None:
        reasons, self._ending = self._ending, {}
        for reason in set(reasons.values()):
            ended = end_connections(filter(None, (address_of(peer) for peer in reasons if reasons[peer] == reason)))
            if ended:
                log.warning("connections were closed", extra={"connections": ended, "reason": reason})

    def turn(self) -> None:
        """A second has passed: if connections become scarce, close those without calls."""
        called = set(self._called)
        self._called.clear()
        self._used.update(filter(None, map(address_of, called)))
        if not self.port or (len(_open_files()) < self._tight and len(self._used) < 4 * self._tight):
            self._idle.clear()
            return
        present = {peer for peer, port, _ in connected() if port == self.port}
        self._used &= present
        busy = set(filter(None, map(address_of, called.union(*(open_calls() for open_calls in self._open_calls)))))
        self._idle = {peer: self._idle.get(peer, 0) + 1 for peer in present - busy}
        surplus = len(present) - self._aim if len(present) >= self._tight else 0
        if surplus > 0 and (without_calls := self._without_calls(surplus)):
            ended = end_connections(without_calls)
            log.warning("connections without calls were closed to make room for others", extra={"connections": ended})

    def _without_calls(self, count: int) -> list[Address]:
        """The connections to close first: those that never had a call, then those without one for longest."""
        unused = [(0, -age, peer) for peer, age in self._idle.items() if age >= UNUSED_TURNS and peer not in self._used]
        idle = [(1, -age, peer) for peer, age in self._idle.items() if age >= IDLE_TURNS and peer in self._used]
        return [peer for _, _, peer in sorted(unused + idle)[:count]]


def end_connections(peers: Iterable[Address]) -> int:
    """Close the TCP connections of these peers. Returns how many there were.

    It finds none if the system does not list our open files.
    """
    wanted: Collection[Address] = set(peers)
    ended = 0
    for _, _, number in [found for found in connected() if found[0] in wanted]:
        # A duplicate descriptor, because another file may have got this number meanwhile.
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            if peer_address(connection) in wanted:
                connection.shutdown(socket.SHUT_RDWR)
                ended += 1
    return ended


def connected() -> Iterator[tuple[Address, int, int]]:
    """Peer, local port and descriptor of every TCP connection of this process."""
    for number in map(int, _open_files()):
        try:
            # This uses the descriptor itself, which is much faster than a duplicate. It must not be closed here.
            connection = socket.socket(fileno=number)
        except OSError:
            continue
        try:
            if connection.family in {socket.AF_INET, socket.AF_INET6} and connection.type == socket.SOCK_STREAM:
                yield peer_address(connection), connection.getsockname()[1], number
        except OSError:
            # It is a listening socket, or the peer has disconnected.
            continue
        finally:
            connection.detach()


def _open_files() -> list[str]:
    """The descriptors of all open files. Empty if the system does not list them."""
    try:
        return os.listdir(_OPEN_FILES)
    except OSError:
        return []


def peer_address(connection: socket.socket) -> Address:
    """Host and port of the other end."""
    host, port, *_ = connection.getpeername()
    return host.removeprefix(_IPV4_IN_IPV6), port


def address_of(peer: str) -> Address | None:
    """Host and port in ``ipv4:HOST:PORT`` or ``ipv6:%5BHOST%5D:PORT``. None for any other peer."""
    family, _, rest = urllib.parse.unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if family not in {"ipv4", "ipv6"} or not port.isdecimal():
        return None
    return host.strip("[]").removeprefix(_IPV4_IN_IPV6), int(port)
