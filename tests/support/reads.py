"""What a transaction is asked to read, in one line."""

from __future__ import annotations

from collections.abc import Iterable

from jobstate_server.domain.reads import Due, Reads


def reads(
    job_ids: Iterable[str] = (),
    *,
    request_keys: Iterable[tuple[str, str]] = (),
    attempt_keys: Iterable[tuple[str, int]] = (),
    due: int = 0,
) -> Reads:
    """These jobs, request ids and attempts, and at most so many due jobs."""
    return Reads(
        job_ids=set(job_ids),
        request_keys=set(request_keys),
        attempt_keys=set(attempt_keys),
        selections={Due(due)} if due else set(),
    )
