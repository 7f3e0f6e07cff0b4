"""Calls of the system that keep the GIL."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from jobstate_server.domain.limits import MEBIBYTE
from jobstate_server.rpc.system_calls import disconnect


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    return near, far


def test_a_connection_that_is_ended_drops_what_nobody_has_read() -> None:
    near, far = connected()
    with near, far:
        near.sendall(bytes(50_000))
        assert len(far.recv(1, socket.MSG_PEEK)) == 1

        assert disconnect(far.fileno())

        with pytest.raises(OSError, match=r"not connected|reset by peer"):
            far.recv(1)
        with pytest.raises(ConnectionResetError):
            near.recv(1)


def test_what_is_no_connection_cannot_be_ended() -> None:
    with open("/dev/null", "rb") as file:
        assert not disconnect(file.fileno())


MEMORY = """
from jobstate_server.rpc.system_calls import resident_bytes, return_freed_memory

before = resident_bytes()
# Blocks below the size that malloc maps by themselves.
blocks = [b"x" * 60_000 for _ in range(1_000)]
touched = resident_bytes()
# One is kept, so that malloc cannot shrink its heap by itself.
del blocks[:-1]
return_freed_memory()
print(before, touched, resident_bytes())
"""


def test_resident_memory_grows_with_what_is_touched_and_falls_when_it_is_returned() -> None:
    # In a process of its own, because this one may have freed memory that the blocks would take.
    output = subprocess.check_output([sys.executable, "-c", MEMORY], text=True, timeout=60)
    before, touched, returned = map(int, output.split())
    assert before > MEBIBYTE
    assert touched > before + 40 * MEBIBYTE
    assert returned < touched - 40 * MEBIBYTE
