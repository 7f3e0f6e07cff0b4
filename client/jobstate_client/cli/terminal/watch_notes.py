"""Notes beside the events of a watch: outages of the server, and jobs that do not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from jobstate_client.cli.terminal.error_messages import message
from jobstate_client.cli.terminal.output import note
from jobstate_client.errors import JobNotFound, JobStateError

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client

IDS_LOOKED_UP_MAX = 20
"""Jobs named by ID that are looked up, to report a missing one. A list that is longer comes from a program."""


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


class MissingJobs:
    """Notes for people which of the named jobs do not exist: no event of them may ever come."""

    def __init__(self, client: Client, show: Callable[[str], None], job_ids: Iterable[str] = ()) -> None:
        self._client = client
        self._show = show
        self._missing = dict.fromkeys(job_ids)
        if len(self._missing) > IDS_LOOKED_UP_MAX:
            self._missing.clear()

    def found(self, job_id: str) -> None:
        """An item of this job has come."""
        self._missing.pop(job_id, None)

    def look_up(self, *, follow: bool) -> None:
        """Look up the jobs of which nothing has come, and show which do not exist."""
        for job_id in self._missing:
            try:
                self._client.get(job_id)
            except JobNotFound:
                text = f"there is no job {job_id!r}"
                self._show(text + ("; waiting for one to be created" if follow else ""))
            except JobStateError:
                # The watch itself reports what is wrong with the server.
                break
        self._missing.clear()
