"""Ports that a test knows before a server listens on them, or while none does."""

from __future__ import annotations

import socket
import weakref
from typing import Self


class ReservedPort:
    """A port of loopback for the servers of one test: nobody else gets it, also while none of them listens.

    Without this, another process may be given the port between two servers, for one of its connections. Even a client
    that tries to connect may: its connection then leads to itself.

    A socket is bound to the port and does not listen, so connections are refused. Linux hands such a port out to nobody
    who asks for any port, and lets a server listen on it that names it, as both sockets have SO_REUSEADDR.
    """

    def __init__(self) -> None:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self.number: int = held.getsockname()[1]
        self.address = f"127.0.0.1:{self.number}"
        self._release = weakref.finalize(self, held.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()
