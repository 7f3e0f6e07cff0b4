"""Ends a connection, which gRPC's asyncio server cannot: there a status waits behind an answer that nobody reads."""

from __future__ import annotations

import logging
import os
import socket
import urllib.parse
from contextlib import suppress

log = logging.getLogger(__name__)

_OPEN_FILES = "/proc/self/fd"

_IPV4_IN_IPV6 = "::ffff:"
"""How a socket for both families names a peer that came by IPv4."""


def end_connection(peer: str) -> bool:
    """End the TCP connection of a peer as gRPC names it, and with it all of its calls.

    Returns whether there was one that could be ended. There is none where the system does not list our open files.
    """
    try:
        wanted = _address(peer)
        numbers = [int(name) for name in os.listdir(_OPEN_FILES)]
    except (OSError, ValueError):
        return False
    for number in numbers:
        # A descriptor of our own, so that no other file is hit that has taken the number meanwhile.
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            if connection.family not in {socket.AF_INET, socket.AF_INET6}:
                continue
            host, port, *_ = connection.getpeername()
            if (host.removeprefix(_IPV4_IN_IPV6), port) == wanted:
                connection.shutdown(socket.SHUT_RDWR)
                log.warning("a connection was ended because answers were not read", extra={"peer": peer})
                return True
    return False


def _address(peer: str) -> tuple[str, int]:
    """Host and port in ``ipv4:HOST:PORT`` or ``ipv6:%5BHOST%5D:PORT``. Raises ValueError when it has none."""
    family, _, rest = urllib.parse.unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if family not in {"ipv4", "ipv6"}:
        raise ValueError(f"{peer} is no address")
    return host.strip("[]"), int(port)
