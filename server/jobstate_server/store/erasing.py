"""What only Erase asks of a store: parts of the protocols in ``base``.

An event or a request id is erased only if the job that it is about is no longer stored. So it does not matter what
happens meanwhile, not even if a new job gets the id of an erased one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from jobstate_server.store.records import StoredEvent

EVENTS_SEARCHED_MAX = 2_000
"""Events whose payloads one read looks into: some milliseconds, and with the largest documents about 130 MB."""

CLEAR_FROM_END = -1
"""In place of a page: begin at the end of the file."""


class ErasedEvent(NamedTuple):
    """An event to erase."""

    sequence: int
    payload: bytes
    """What is left of its payload."""


class ErasedLane(NamedTuple):
    """A lane of which an erased event has told."""

    job_type: str
    lane: str
    hold_reason: str
    """Why the event held the lane. Empty if it did not."""


class UsedRequest(NamedTuple):
    """A stored request id, as far as Erase needs to know it."""

    principal: str
    request_id: str
    job_ids: str
    """Of all jobs that its call was about, with spaces between them."""
    create_sequence: int | None
    time: int


class RequestPage(NamedTuple):
    """Request ids in the order in which they were used."""

    requests: list[UsedRequest]
    next_time: int | None
    """Where to read on. None at the end."""


class StoredKey(NamedTuple):
    """A job that is stored."""

    create_sequence: int
    create_time: int


class Clearing(NamedTuple):
    """How far a store has cleared the space that it does not use."""

    page: int | None
    """Where to go on. None when everything is cleared."""
    is_blocked: bool = False
    """Whether nothing could be done, because somebody reads an old state of the store."""


class ErasureReads(Protocol):
    """The part of a reader."""

    def search_events(
        self, after: int, parts: Sequence[bytes], limit: int, bytes_max: int
    ) -> tuple[list[StoredEvent], int]:
        """The next events after a sequence whose payloads have all of these bytes, and through which sequence they were
        looked for: at most ``EVENTS_SEARCHED_MAX`` further.

        At most ``limit`` and, after the first, ``bytes_max`` of payload.
        """

    def requests_from(self, time: int, limit: int) -> RequestPage:
        """About ``limit`` request ids, from those that were used at this time on."""


class ErasureWrites(Protocol):
    """The part of a transaction."""

    def erase_events(self, events: Sequence[ErasedEvent]) -> int:
        """Leave only this of the events whose jobs are no longer stored, and count that in ``LogState.erasures``.

        The source is taken from their columns too. Returns how many were erased: not those that already were, or that
        retention has removed.
        """

    def erase_requests(self, requests: Sequence[tuple[UsedRequest, str]]) -> int:
        """Forget those of the request ids whose job, the one with this id, is no longer stored. Returns how many."""

    def erase_lanes(self, lanes: Sequence[ErasedLane]) -> None:
        """Delete those of the lanes that have no jobs and are not paused, with their holds. Of the others, forget the
        reasons for holds that erased events gave."""


class Clears(Protocol):
    """The part of a store."""

    def clear_unused(self, page: int, limit: int) -> Clearing:
        """Overwrite what the store holds of data that it no longer needs, one step at a time. Not in a transaction.

        Does nothing where only the database itself can do it.

        Args:
            page: where to begin: ``CLEAR_FROM_END``, or what the last step said.
            limit: how many pages to look at.

        Raises:
            StoreError: the store is damaged, or cannot be written.
        """

    def stop_clearing(self) -> None:
        """Take no more steps for now. Always called in the end."""


def of_gone_jobs(requests: Sequence[tuple[UsedRequest, str]], stored: Mapping[str, StoredKey]) -> list[tuple[str, str]]:
    """The keys of the requests about jobs that are no longer stored. ``stored``: those jobs with their ids that are."""
    return [
        (request.principal, request.request_id)
        for request, job_id in requests
        if job_id not in stored or not _is_about(request, stored[job_id])
    ]


def _is_about(request: UsedRequest, job: StoredKey) -> bool:
    """Whether a call was about this job, and not about an earlier one with its id."""
    if request.create_sequence is not None:
        return request.create_sequence == job.create_sequence
    return request.time >= job.create_time
