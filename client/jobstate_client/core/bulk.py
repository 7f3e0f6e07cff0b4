"""The operations that change all jobs that match a filter. Each repeats its call until there is no more to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core.calls import Call, decode_with
from jobstate_client.core.operations import JobRef, list_jobs, new_request_id
from jobstate_client.core.states import State, WaitReason
from jobstate_client.core.values import Span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import BulkProgress


class Filters(TypedDict, total=False):
    """Which jobs: the filters of ``list``."""

    states: Iterable[State | str]
    job_types: Iterable[str]
    source_id: str
    group: JobRef
    needed_by: JobRef
    needs: JobRef
    wait_reasons: Iterable[WaitReason | str]
    created_from: datetime | None
    created_before: datetime | None
    labels: Mapping[str, str] | None
    worker: str
    error_code: str
    completed_from: datetime | None
    completed_before: datetime | None


@dataclass(frozen=True, slots=True)
class BulkCall:
    """A call that is repeated until there is no more to do."""

    call: Call[BulkProgress]

    def next(self, progress: BulkProgress) -> Call[BulkProgress] | None:
        """The next call after this answer; None after the last. A dry run has one call."""
        return self.call if progress.more and self.call.request_id else None

    def after(self, earlier: BulkProgress | None, progress: BulkProgress) -> BulkProgress:
        """The answer to all calls so far."""
        progress = replace(progress, request_id=self.call.request_id)
        return progress if earlier is None else progress.after(earlier)


def recreate_many(
    *,
    all: bool = False,
    dry_run: bool = False,
    limit: int = 0,
    request_id: str = "",
    timeout: Span | None = None,
    **filters: Unpack[Filters],
) -> BulkCall:
    """Recreate every job that has ended and that matches the filters of ``list``, each as ``recreate`` does.

    Args:
        all: every job that has ended is meant. Required if there is no filter.
        dry_run: only count, for about 5 seconds.
        limit: the most jobs to recreate; 0 is 1,000,000.
        request_id: names the work, so that another call with the same arguments goes on with it, and each job is
            recreated once. Empty generates one. It is the ``request_id`` of the result and of errors.
        timeout: for each of the calls that it takes.
        filters: without ``states``, every job that has ended.

    Raises:
        InvalidField: there is neither a filter nor ``all``.
        RequestIdReused: the ``request_id`` belongs to other work.
    """
    return _bulk("RecreateMany", pb.RecreateManyRequest, filters, timeout, all, dry_run, limit, request_id)


def retry_many(
    *,
    immediately: bool = False,
    all: bool = False,
    dry_run: bool = False,
    limit: int = 0,
    request_id: str = "",
    timeout: Span | None = None,
    **filters: Unpack[Filters],
) -> BulkCall:
    """Retry every job that stays in FAILED and that matches the filters, each as ``retry`` does.

    ``immediately`` skips the wait, also of the jobs in RETRYING. The other arguments and the errors are those of
    ``recreate_many``.
    """
    more = {"immediately": immediately}
    return _bulk("RetryMany", pb.RetryManyRequest, filters, timeout, all, dry_run, limit, request_id, **more)


def cancel_many(
    reason: str = "",
    *,
    all: bool = False,
    dry_run: bool = False,
    limit: int = 0,
    request_id: str = "",
    timeout: Span | None = None,
    **filters: Unpack[Filters],
) -> BulkCall:
    """Cancel every job that has not ended and that matches the filters, each as ``cancel`` does.

    The other arguments and the errors are those of ``recreate_many``.
    """
    return _bulk("CancelMany", pb.CancelManyRequest, filters, timeout, all, dry_run, limit, request_id, reason=reason)


def _bulk(
    rpc: str,
    request_type: Callable[..., Any],
    filters: Filters,
    timeout: Span | None,
    all: bool,
    dry_run: bool,
    limit: int,
    request_id: str,
    **more: Any,
) -> BulkCall:
    request = request_type(
        filter=_filter(filters),
        all=all,
        dry_run=dry_run,
        limit=limit,
        request_id="" if dry_run else request_id or new_request_id(),
        **more,
    )
    return BulkCall(Call(rpc, request, decode_with("bulk_progress"), timeout))


def _filter(filters: Filters) -> pb.JobFilter:
    """The filters as those of a list, whose fields have the same numbers."""
    unknown = sorted(filters.keys() - Filters.__annotations__.keys())
    if unknown:
        raise TypeError(f"{unknown[0]!r} is not a filter: it must be one of {', '.join(Filters.__annotations__)}")
    listed = list_jobs(**filters).first.request
    listed.ClearField("order")
    return pb.JobFilter.FromString(listed.SerializeToString())
