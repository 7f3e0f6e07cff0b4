"""The ``Reader`` of every SQL backend."""

from __future__ import annotations

from jobstate_server.store.reading.erasing import ErasureReads
from jobstate_server.store.reading.events import EventReads
from jobstate_server.store.reading.job_pages import JobPageReads
from jobstate_server.store.reading.lanes import LaneReads
from jobstate_server.store.reading.maintenance import MaintenanceReads
from jobstate_server.store.reading.ready import ReadyReads
from jobstate_server.store.reading.statistics import StatisticsReads


class SqlReader(JobPageReads, EventReads, StatisticsReads, MaintenanceReads, ReadyReads, LaneReads, ErasureReads):
    """A ``Reader`` over one peewee database."""
