"""What a transaction is asked to read, in one line."""

from __future__ import annotations

from collections.abc import Iterable

from jobstate_server.domain.reads import Due, Finished, Reads


def reads(
    job_ids: Iterable[str] = (),
    *,
    request_keys: Iterable[tuple[str, str]] = (),
    attempt_keys: Iterable[tuple[str, int]] = (),
    due: int = 0,
    finished: Finished | None = None,
) -> Reads:
    """These jobs, request ids and attempts, at most so many due jobs, and the finished ones of a selection."""
    return Reads(
        job_ids=set(job_ids),
        request_keys=set(request_keys),
        attempt_keys=set(attempt_keys),
        selections={*([Due(due)] if due else []), *([finished] if finished else [])},
    )
