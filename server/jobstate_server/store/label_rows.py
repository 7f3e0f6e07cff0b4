"""Converts labels to rows, for both stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jobstate_server.domain.job import FinishedJob, Job
from jobstate_server.domain.labels import from_text
from jobstate_server.store.label_models import LabelRow

LABEL_COLUMNS = tuple(LabelRow._meta.sorted_field_names)


def label_values(job: Job | FinishedJob) -> Iterator[tuple[str, str, int, int]]:
    """The rows of a job's labels, in the order of ``LABEL_COLUMNS``."""
    for key, value in from_text(job.labels):
        yield key, value, job.create_time, job.create_sequence


def labels_of(jobs: Iterable[Job | FinishedJob]) -> list[tuple[str, str, int, int]]:
    """The rows of the labels of all these jobs. Most have none."""
    return [row for job in jobs if job.labels is not None for row in label_values(job)]
