"""The idempotency key of a call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from google.protobuf.message import Message

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import Caller

NewId = Callable[[], str]
"""Makes an id for a job that is created without one."""


def request_key(caller: Caller, rpc: str, message: Message, request_id: str) -> c.Request | None:
    """The idempotency key of a call. None if the call has no request_id.

    The digest is of the deterministic re-serialisation, because two encodings of one message may differ.
    """
    if not request_id:
        return None
    digest = hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest()
    return c.Request(caller.principal, request_id, rpc, digest)
