"""Rows of the steps of the lifecycle, in which most changes of jobs differ in few columns."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from jobstate_server.domain.job import Job
from jobstate_server.store.rows import CHANGING_FIELDS

STEP_COLUMNS = (
    "version",
    "state",
    "progress",
    "attempt",
    "claimed",
    "worker",
    "update_time",
    "start_time",
    "claim_time",
    "complete_time",
    "attempt_deadline",
    "due_time",
    "heard_time",
    "duration",
    "lease",
)
"""Columns that most steps of the lifecycle change."""

LATER_STEP_COLUMNS = tuple(name for name in STEP_COLUMNS if name != "worker")
"""Those of a step of the same worker: the index of workers keeps its entry."""

_step_values = itemgetter(*STEP_COLUMNS, "create_sequence")
_later_step_values = itemgetter(*LATER_STEP_COLUMNS, "create_sequence")
_not_in_step = itemgetter(*[name for name in CHANGING_FIELDS if name not in STEP_COLUMNS])


def step_values(job: Job) -> tuple[Any, ...]:
    """The values of ``STEP_COLUMNS``, then the key."""
    values: tuple[Any, ...] = _step_values(job.__dict__)
    return values


def later_step_values(job: Job) -> tuple[Any, ...]:
    """The values of ``LATER_STEP_COLUMNS``, then the key."""
    values: tuple[Any, ...] = _later_step_values(job.__dict__)
    return values


def is_plain_step(before: Job, after: Job) -> bool:
    """Whether, of ``rows.CHANGE_COLUMNS``, only ``STEP_COLUMNS`` differ between these two versions of a job."""
    return before.last_error is after.last_error and bool(_not_in_step(before.__dict__) == _not_in_step(after.__dict__))
