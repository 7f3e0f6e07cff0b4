"""What a transaction does about the runs of tasks. Part of ``store.base.Transaction``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from jobstate_server.domain.durations import DAY, MINUTE

TASK_AHEAD_MAX = 1 * MINUTE
"""How far in the future a scheduled instant may be when its run is claimed. Clocks of replicas differ by less."""

RECURRING = "recurring/"
"""What the names of recurring entries begin with, beside the names of tasks."""

RECURRING_FORGOTTEN = 30 * DAY
"""How long the last instant of an entry is kept that no server has any more: longer than any replica is frozen."""


class TaskRuns(Protocol):
    """The runs of maintenance tasks, and the instants of recurring entries."""

    def claim_task(self, name: str, due: int, token: str, replica: str) -> bool:
        """Claim the run of a task for the scheduled instant ``due``. False when it, or a later one, is already claimed.

        A run that has not ended can be taken over for the same instant, once its replica has not renewed its lease
        for ``REPLICA_LEASE``. A claimed instant more than ``TASK_AHEAD_MAX`` ahead of now is ignored: it was claimed
        while a clock was wrong.
        """

    def finish_task(self, name: str, token: str, outcome: str) -> None:
        """Record how the run with this ``token`` ended. Does nothing when another run has taken over."""

    def task_is_ours(self, name: str, token: str) -> bool:
        """Whether the run with this token still holds the task."""

    def note_recurring(self, definitions: Mapping[str, str], wall: int) -> None:
        """Note the recurring entries that this server has, each with its schedule and time zone.

        The instants of an entry that is new, or that has another definition, count from ``wall`` on. Entries that are
        not named lose their definition, so that they are new when they come back, and are forgotten when their last
        instant is older than ``RECURRING_FORGOTTEN``.
        """
