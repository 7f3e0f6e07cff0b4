"""Cursors: where in which log a watcher is, as opaque text.

A cursor holds the log's name, a sequence, and a check of the event there. The check is what tells a log that was
restored from a backup, and has since grown differently, from the one the cursor was made by.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import NamedTuple

_LAYOUT = struct.Struct(">B6sQI")
_FORMAT = 1

CURSOR_LENGTH_MAX = 64
"""Characters; ours have 28. Longer text is not looked at."""


class Cursor(NamedTuple):
    """A position in a log: everything up to ``sequence`` has been seen."""

    log_id: str
    sequence: int
    check: int


def encode_cursor(cursor: Cursor) -> str:
    """The cursor as text."""
    packed = _LAYOUT.pack(_FORMAT, bytes.fromhex(cursor.log_id), cursor.sequence, cursor.check)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode_cursor(text: str) -> Cursor | None:
    """The cursor in the text, None when no server made it."""
    if len(text) > CURSOR_LENGTH_MAX:
        return None
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        kind, log_id, sequence, check = _LAYOUT.unpack(packed)
    except (binascii.Error, struct.error, ValueError):
        return None
    if kind != _FORMAT or sequence >= 2**63:
        return None
    return Cursor(log_id.hex(), sequence, check)
