"""The phase of a job: the same word for the same thing in ``top``, ``watch``, ``get``, ``list`` and the demo.

A name in capitals (PROCESSING) is a state of the contract, and a number beside it counts the jobs in that state, as
GetStats does. Phases are for people, and separate what one state combines: an attempt that the server has begun is
PROCESSING, but nobody works on it until a worker has claimed it.
"""

from __future__ import annotations

from enum import StrEnum

from jobstate_client.core.states import State


class Phase(StrEnum):
    """What is happening to a job."""

    WAITING = "waiting"
    """Waiting for a worker to claim its first attempt (QUEUED) or a later one (PROCESSING, not claimed)."""
    RUNNING = "running"
    """A worker has claimed its attempt (PROCESSING, claimed)."""
    RETRYING = "retrying"
    """Its retry is not due yet (RETRYING)."""
    FAILED = "failed"
    """It stays until it is retried or cancelled by a call (FAILED)."""
    ENDED = "ended"
    """Nothing follows (COMPLETED, PERMANENTLY_FAILED, CANCELLED)."""
    UNKNOWN = "unknown"
    """The state is one that this version does not know."""


_PHASES = {
    State.QUEUED: Phase.WAITING,
    State.RETRYING: Phase.RETRYING,
    State.FAILED: Phase.FAILED,
    State.COMPLETED: Phase.ENDED,
    State.PERMANENTLY_FAILED: Phase.ENDED,
    State.CANCELLED: Phase.ENDED,
}


def phase_of(state: State, *, claimed: bool) -> Phase:
    """What is happening to a job in this state. ``claimed`` is the job's."""
    if state is State.PROCESSING:
        return Phase.RUNNING if claimed else Phase.WAITING
    return _PHASES.get(state, Phase.UNKNOWN)
