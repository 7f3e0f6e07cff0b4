"""The lifecycle: which trigger leads from which state to which, and under what guard.

``STEPS`` is the table that docs, wire and tests are checked against. One shared ``transitions`` machine is built from
it. The machine has no model, keeps no state and does no I/O, so any thread may use it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from transitions import Machine
from transitions.extensions import GraphMachine

from jobstate_server.domain.job import FINAL_STATES, Job, JobState
from jobstate_server.domain.values import plain_members

# transitions logs some fifteen lines per step, several at INFO; our own events report the decisions.
logging.getLogger("transitions").setLevel(logging.WARNING)


@plain_members
class Trigger(StrEnum):
    """What can change the state of a stored job."""

    START = "start"
    CLAIM = "claim"
    PROGRESS = "progress"
    COMPLETE = "complete"
    FAIL = "fail"
    RETRY = "retry"
    GIVE_UP = "give_up"
    RELEASE = "release"
    EXPEDITE = "expedite"
    READY = "ready"
    RESUME = "resume"
    CANCEL = "cancel"


SERVER_TRIGGERS = frozenset({Trigger.GIVE_UP, Trigger.READY, Trigger.RESUME})
"""Only the server uses these. Errors never name them as allowed."""

_OF_CALLERS = tuple(trigger for trigger in Trigger if trigger not in SERVER_TRIGGERS)

CALLS: dict[str, str] = {
    Trigger.START: "Start",
    Trigger.CLAIM: "Start",
    Trigger.PROGRESS: "UpdateProgress",
    Trigger.COMPLETE: "Complete",
    Trigger.FAIL: "Fail",
    Trigger.RETRY: "Retry",
    Trigger.RELEASE: "Release",
    Trigger.EXPEDITE: "Retry with immediately",
    Trigger.CANCEL: "Cancel",
    "recreate": "Recreate",
}
"""The call that pulls each of the others, as refusals name it. Recreate pulls none: it leaves its job as it is."""


Guard = Callable[[Job, int], bool]
"""Whether a job may take a step now. The second argument is the time."""


def is_not_held(job: Job, _now: int) -> bool:
    """Neither a delay nor a need keeps the job from being begun."""
    return not job.held


def is_delayed(job: Job, now: int) -> bool:
    """A delay keeps the job from being begun, whether or not needs do too."""
    return job.held and (job.ready_time > now or not job.open_needs)


def delay_is_over(job: Job, now: int) -> bool:
    """The job is delayed, its time has come, and no need is open."""
    return job.held and job.ready_time <= now and not job.open_needs


def is_unclaimed(job: Job, _now: int) -> bool:
    """The server resumed the running attempt and no worker has claimed it, so no timeout counts."""
    return not job.claimed


def can_retry(job: Job, _now: int) -> bool:
    """The last error allows a retry and there are retries left."""
    error = job.last_error
    return error is not None and retry_is_allowed(error.retryable, job.retry_count, job.max_retries)


def retry_is_allowed(error_retryable: bool, retry_count: int, max_retries: int) -> bool:
    """Whether a job that failed with this error may run again."""
    return error_retryable and retry_count < max_retries


def cannot_retry(job: Job, now: int) -> bool:
    """The opposite of ``can_retry``."""
    return not can_retry(job, now)


def wait_is_over(job: Job, now: int) -> bool:
    """The time of the next attempt has come."""
    return job.next_retry_time is not None and job.next_retry_time <= now


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table."""

    trigger: Trigger
    source: JobState
    target: JobState
    guard: Guard | None = None


STEPS = (
    Step(Trigger.START, JobState.QUEUED, JobState.PROCESSING, is_not_held),
    Step(Trigger.CLAIM, JobState.PROCESSING, JobState.PROCESSING, is_unclaimed),
    Step(Trigger.PROGRESS, JobState.PROCESSING, JobState.PROCESSING),
    Step(Trigger.COMPLETE, JobState.PROCESSING, JobState.COMPLETED),
    Step(Trigger.FAIL, JobState.PROCESSING, JobState.FAILED),
    Step(Trigger.RETRY, JobState.FAILED, JobState.RETRYING, can_retry),
    Step(Trigger.GIVE_UP, JobState.FAILED, JobState.PERMANENTLY_FAILED, cannot_retry),
    Step(Trigger.RELEASE, JobState.PROCESSING, JobState.RETRYING),
    Step(Trigger.EXPEDITE, JobState.QUEUED, JobState.QUEUED, is_delayed),
    Step(Trigger.EXPEDITE, JobState.RETRYING, JobState.PROCESSING),
    Step(Trigger.READY, JobState.QUEUED, JobState.QUEUED, delay_is_over),
    Step(Trigger.RESUME, JobState.RETRYING, JobState.PROCESSING, wait_is_over),
    Step(Trigger.CANCEL, JobState.QUEUED, JobState.CANCELLED),
    Step(Trigger.CANCEL, JobState.PROCESSING, JobState.CANCELLED),
    Step(Trigger.CANCEL, JobState.FAILED, JobState.CANCELLED),
    Step(Trigger.CANCEL, JobState.RETRYING, JobState.CANCELLED),
)


def _states() -> list[dict[str, object]]:
    return [{"name": state.name, "final": state in FINAL_STATES} for state in JobState]


def _transitions() -> list[dict[str, object]]:
    return [
        {
            "trigger": step.trigger.value,
            "source": step.source.name,
            "dest": step.target.name,
            "conditions": [step.guard] if step.guard else [],
        }
        for step in STEPS
    ]


MACHINE = Machine(model=None, states=_states(), transitions=_transitions(), initial=None, auto_transitions=False)
"""The shared machine. It has no model: its events and transitions are read, never run against an object."""

_Way = tuple[tuple[Guard, ...], JobState]


def _compile(machine: Machine) -> dict[tuple[JobState, Trigger], tuple[_Way, ...]]:
    """The machine's transitions as a dictionary: a lookup is forty times faster than to run them."""
    ways: dict[tuple[JobState, Trigger], tuple[_Way, ...]] = {}
    for name, event in machine.events.items():
        for source, found in event.transitions.items():
            ways[JobState[source], Trigger(name)] = tuple(
                (tuple(cast(Guard, condition.func) for condition in way.conditions), JobState[str(way.dest)])
                for way in found
            )
    return ways


_WAYS = _compile(MACHINE)


def next_state(trigger: Trigger, job: Job, now: int) -> JobState | None:
    """The state that ``trigger`` leads to from the job's state, or None when the step is not allowed."""
    for guards, target in _WAYS.get((job.state, trigger), ()):
        for guard in guards:
            if not guard(job, now):
                break
        else:
            return target
    return None


def allowed_triggers(job: Job, now: int) -> tuple[str, ...]:
    """The triggers that a caller may use on the job now, in the order of the table. The server itself runs groups."""
    used = (Trigger.CANCEL,) if job.group_depth else _OF_CALLERS
    return tuple(trigger.value for trigger in used if next_state(trigger, job, now) is not None)


def mermaid() -> str:
    """The state diagram in Mermaid, which ``transitions`` draws from the same table."""
    diagram = GraphMachine(
        states=_states(),
        transitions=_transitions(),
        initial=JobState.QUEUED.name,
        auto_transitions=False,
        graph_engine="mermaid",
        show_conditions=True,
        title="title: Job",
    )
    return str(diagram.get_graph().source).strip() + "\n"
