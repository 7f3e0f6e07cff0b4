"""Who asks for something."""

from __future__ import annotations

from dataclasses import dataclass

from jobstate_server.domain.reach import EVERYTHING, Reach


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a command or read. Made once for an identity, not for every call."""

    principal: str = ""
    """Whose request ids and jobs these are; empty without an identity."""
    actor: str = ""
    """Who is written into events as having caused a change."""
    reach: Reach = EVERYTHING


ANONYMOUS = Caller()
"""Whoever calls while there are no identities."""

SERVER = Caller(actor="server")
"""The server itself, in whatever it decides by itself."""
