"""Needs: which jobs must have ended, and how, before another may begin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from jobstate_server.domain.job import JobState
from jobstate_server.domain.values import plain_members


@plain_members
class NeedCondition(IntEnum):
    """How a needed job must have ended. The numbers are stored and are those of ``jobstate.v1.NeedCondition``."""

    COMPLETED = 1
    FINAL = 2
    NOT_COMPLETED = 3


class Need(NamedTuple):
    """A job that another needs."""

    job_id: str
    condition: NeedCondition = NeedCondition.COMPLETED


class NewNeed(NamedTuple):
    """A need of a job that is created."""

    child_id: str
    position: int
    """Its place among the needs of that job."""
    need: Need
    outcome: JobState | None
    """How the needed job has ended. None if it has not."""


class OpenNeed(NamedTuple):
    """A stored need of which the needed job was not final yet."""

    child_id: str
    child_key: int
    """The ``create_sequence`` of the job that has the need."""
    position: int
    condition: NeedCondition


class OpenNeeds(NamedTuple):
    """The first open needs of which one job is the needed one, with the jobs that have them read and locked."""

    needs: Sequence[OpenNeed] = ()
    is_all: bool = True
    """Whether there are no others."""


class ResolvedNeed(NamedTuple):
    """A stored need whose needed job has ended."""

    child_key: int
    position: int
    outcome: JobState


class Standing(NamedTuple):
    """What a new job must wait for."""

    open: tuple[int, ...]
    """Which of the needs are not met yet, by their place."""
    impossible: str = ""
    """The first needed job that ended in a way that its condition rules out. Empty if there is none."""


def is_met(condition: NeedCondition, state: JobState) -> bool | None:
    """Whether a need is met now that the needed job is in this state. None while that is not final.

    No step leads out of a final state, so the answer never changes again.
    """
    if not state.is_final:
        return None
    if condition is NeedCondition.FINAL:
        return True
    return (state is JobState.COMPLETED) is (condition is NeedCondition.COMPLETED)


def standing(needs: Iterable[tuple[Need, JobState]]) -> Standing:
    """What a job with these needs must wait for, given the states of the needed jobs."""
    waits: list[int] = []
    for place, (need, state) in enumerate(needs):
        met = is_met(need.condition, state)
        if met is None:
            waits.append(place)
        elif not met:
            return Standing((), need.job_id)
    return Standing(tuple(waits))
