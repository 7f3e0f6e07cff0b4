"""Writes the items of a watch: one line for each, as text or as JSON."""

from __future__ import annotations

import sys
from typing import Protocol

from jobstate_client.cli.terminal.output import Output
from jobstate_client.core.values import Event, Job
from jobstate_client.views.summaries import change_summary, event_name, event_summary
from jobstate_client.views.text import exact, safe


class WatchPrinter(Protocol):
    """Shows the items of a watch."""

    def event(self, event: Event, cursor: str) -> None:
        """Show an event."""

    def job(self, job: Job) -> None:
        """Show a job of the snapshot."""

    def snapshot_started(self) -> None:
        """The jobs of a snapshot follow, perhaps not for the first time."""

    def synced(self, cursor: str) -> None:
        """The watch has caught up."""


class LinePrinter:
    """Writes a line for each event, for pipes and files."""

    def event(self, event: Event, cursor: str) -> None:
        """Show an event."""
        name = safe(event_name(event))
        text = f"{exact(event.time)}  {name:<18}  {safe(event.job.id)}  {safe(event.job.job_type)}"
        sys.stdout.write(f"{text}  {safe(event_summary(event))}".rstrip() + "\n")

    def job(self, job: Job) -> None:
        """Show a job of the snapshot."""
        text = f"{exact(job.update_time) if job.update_time else '':<27}  {'is ' + job.state.value:<18}"
        sys.stdout.write(f"{text}  {safe(job.id)}  {safe(job.job_type)}  {safe(change_summary(job))}".rstrip() + "\n")

    def snapshot_started(self) -> None:
        """Nothing is shown."""

    def synced(self, cursor: str) -> None:
        """Nothing is shown."""


class JsonPrinter:
    """Writes each item as a JSON document on one line."""

    def __init__(self, output: Output, *, snapshot: bool) -> None:
        self._output = output
        self._snapshot = snapshot

    def event(self, event: Event, cursor: str) -> None:
        """Show an event."""
        self._output.document({"kind": "event", "cursor": cursor or None, "event": event})

    def job(self, job: Job) -> None:
        """Show a job of the snapshot."""
        self._output.document({"kind": "snapshot_job", "job": job})

    def snapshot_started(self) -> None:
        """Say that the jobs that are held have to be discarded."""
        self._output.document({"kind": "snapshot_started"})

    def synced(self, cursor: str) -> None:
        """Say that the snapshot is complete."""
        if self._snapshot:
            self._output.document({"kind": "synced", "cursor": cursor})
