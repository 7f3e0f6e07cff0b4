"""Calls of the system about memory and connections that Python does not have, or that it gives up the GIL for.

While the event loop is busy it takes 5 ms to get the GIL back, and on a busy machine hundreds: first the loop's thread
has to get a processor, then the caller's. So calls that take microseconds keep it.
"""

from __future__ import annotations

import ctypes
import os
import socket

_STATM = b"/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ADDRESS_BYTES = 16

_libc = ctypes.PyDLL(None)
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""None where the C library is not glibc."""


def resident_bytes() -> int:
    """Resident memory of this process. 0 if the system does not tell."""
    number = _libc.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
    if number < 0:
        return 0
    text = ctypes.create_string_buffer(128)
    length = _libc.read(number, text, len(text))
    _libc.close(number)
    return int(text.raw[:length].split()[1]) * _PAGE_BYTES if length > 0 else 0


def disconnect(number: int) -> bool:
    """End the TCP connection with this descriptor at once, and drop what the system has received and nobody has read.

    After ``shutdown`` all of that, up to 32 MiB, would still be read. Returns False if that is not possible.
    """
    # An address of the family AF_UNSPEC, which is 0, ends a connection.
    unspecified = ctypes.create_string_buffer(_ADDRESS_BYTES)
    is_ended: bool = _libc.connect(number, unspecified, _ADDRESS_BYTES) == 0
    return is_ended or _libc.shutdown(number, socket.SHUT_RDWR) == 0


def return_freed_memory() -> None:
    """Give memory back to the system that was freed and that malloc keeps. It takes milliseconds, without the GIL.

    Each of gRPC's threads has a heap of its own, and does not use what others have freed.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
