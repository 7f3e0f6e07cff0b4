"""Who makes a call."""

from __future__ import annotations

from dataclasses import dataclass

from jobstate_server.domain.reach import EVERYTHING, Reach


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a command or read. One object for each identity, not for each call."""

    principal: str = ""
    """Owns request ids and jobs. Empty without an identity."""
    actor: str = ""
    """The actor in the events that the caller's changes make."""
    reach: Reach = EVERYTHING


ANONYMOUS = Caller()
"""The caller of every call while there are no identities."""

SERVER = Caller(actor="server")
"""The server, as the caller of its own commands."""
