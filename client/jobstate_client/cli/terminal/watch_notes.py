"""Notes beside the events of a watch: outages of the server, and jobs that do not exist or are final."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from jobstate_client.cli.terminal.error_messages import message
from jobstate_client.cli.terminal.output import note
from jobstate_client.errors import JobNotFound, JobStateError

if TYPE_CHECKING:
    from jobstate_client.core.states import State
    from jobstate_client.core.values import Job
    from jobstate_client.sync.client import Client

IDS_LOOKED_UP_MAX = 20
"""Jobs named by ID that are looked up, to say what is not to come. A list that is longer comes from a program."""


class ConnectionNotes:
    """Notes for people that the server is away, once for each outage, and that it is back."""

    def __init__(self, server: str, show: Callable[[str], None] = note) -> None:
        self._server = server
        self._show = show
        self._was_connected = False
        self._is_away = False

    def connection_lost(self, error: JobStateError) -> None:
        """The watch broke off, or could not be opened."""
        if not self._is_away:
            self._is_away = True
            why = message(error, self._server)
            if self._was_connected:
                self._show(f"{why}; the watch resumes when it is back")
            else:
                self._show(f"{why}; trying again")

    def connected(self) -> None:
        """The server has answered."""
        self._was_connected = True
        if self._is_away:
            self._is_away = False
            self._show(f"connected to {self._server}")


class NamedJobs:
    """Notes for people which of the named jobs do not exist or are final, and whether the watch can end for that."""

    def __init__(self, client: Client, show: Callable[[str], None], job_ids: Iterable[str], *, follow: bool) -> None:
        """Of more than IDS_LOOKED_UP_MAX jobs nothing is said, and the watch goes on."""
        self._client = client
        self._show = show
        self._follow = follow
        job_ids = dict.fromkeys(job_ids)
        self._states: dict[str, State | None] = {} if len(job_ids) > IDS_LOOKED_UP_MAX else dict.fromkeys(job_ids)
        """The last state that is known of each."""
        self.unknown: list[str] = []
        """Those that do not exist."""
        self.is_over = False
        """Whether nothing is to be expected of any of them."""

    def found(self, job: Job) -> None:
        """An item of this job has come."""
        if job.id in self._states:
            self._states[job.id] = job.state

    def look_up(self) -> None:
        """What is behind has been shown: look up the jobs of which nothing has come, and say what is not to come."""
        for job_id, state in self._states.items():
            try:
                self._look_up(job_id, state)
            except JobStateError:
                # The watch itself reports what is wrong with the server.
                return
        over = [state is not None and state.is_final for state in self._states.values()]
        self.is_over = bool(over) and sum(over) + len(self.unknown) == len(over)
        self._states.clear()

    def _look_up(self, job_id: str, state: State | None) -> None:
        try:
            state = self._states[job_id] = state or self._client.get(job_id).state
        except JobNotFound:
            self.unknown.append(job_id)
            self._show(f"there is no job {job_id!r}")
        else:
            if state.is_final and self._follow:
                self._show(f"{job_id} is {state.value}")
