"""The requests that change many jobs: RecreateMany, RetryMany and CancelMany."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from google.protobuf.unknown_fields import UnknownFieldSet

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain import limits
from jobstate_server.domain.bulk import UNFINISHED_STATES, BulkChange
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.filters import JobFilter
from jobstate_server.domain.job import FINAL_STATES, JobState
from jobstate_server.rpc.requests.keys import NewId, request_key
from jobstate_server.rpc.requests.problems import Problems
from jobstate_server.rpc.requests.reads import job_filter

BulkRequest = pb.RecreateManyRequest | pb.RetryManyRequest | pb.CancelManyRequest


def recreate_many(request: pb.RecreateManyRequest, caller: Caller, new_id: NewId, ahead: int) -> BulkChange:
    """What a RecreateMany asks for. Raises InvalidField.

    Args:
        ahead: by how much the store's time is ahead of the wall clock, which callers use.
    """
    problems = Problems()
    if request.filter.wait_reasons:
        problems.add("filter.wait_reasons", "matches no job that has ended")

    def recreate(job_id: str) -> c.JobCommand:
        return c.Recreate(job_id, caller, new_id=new_id())

    return _change("RecreateMany", request, caller, ahead, problems, FINAL_STATES, recreate, takes_groups=False)


def retry_many(request: pb.RetryManyRequest, caller: Caller, ahead: int) -> BulkChange:
    """What a RetryMany asks for. As ``recreate_many``."""
    immediately = request.immediately
    states = {JobState.FAILED, JobState.RETRYING} if immediately else {JobState.FAILED}

    def retry(job_id: str) -> c.JobCommand:
        return c.Retry(job_id, caller, immediately=immediately)

    return _change("RetryMany", request, caller, ahead, Problems(), frozenset(states), retry, takes_groups=False)


def cancel_many(request: pb.CancelManyRequest, caller: Caller, ahead: int) -> BulkChange:
    """What a CancelMany asks for. As ``recreate_many``."""
    reason = request.reason
    problems = Problems()
    problems.text("reason", reason, limits.TEXT_BYTES_MAX)

    def cancel(job_id: str) -> c.JobCommand:
        return c.Cancel(job_id, caller, reason=reason)

    return _change("CancelMany", request, caller, ahead, problems, UNFINISHED_STATES, cancel, takes_groups=True)


def _change(
    rpc: str,
    request: BulkRequest,
    caller: Caller,
    ahead: int,
    problems: Problems,
    may_change: frozenset[JobState],
    command_for: Callable[[str], c.JobCommand],
    *,
    takes_groups: bool,
) -> BulkChange:
    wanted = _filter(request, caller, ahead, problems)
    problems.within("limit", request.limit, 0, limits.BULK_CHANGES_MAX)
    problems.request_id(request.request_id)
    if request.dry_run and request.request_id:
        problems.add("request_id", "is not for a dry run, which does nothing that calls could go on with")
    elif not request.dry_run and not request.request_id:
        problems.add("request_id", "must be given: it names the work, so that a repeat goes on with it")
    problems.refuse()
    if not wanted.states and not wanted.wait_reasons:
        wanted = replace(wanted, states=tuple(sorted(may_change)))
    return BulkChange(
        wanted=wanted,
        request=request_key(caller, rpc, request, request.request_id),
        limit=request.limit or limits.BULK_CHANGES_MAX,
        may_change=may_change,
        takes_groups=takes_groups,
        command_for=command_for,
    )


def _filter(request: BulkRequest, caller: Caller, ahead: int, problems: Problems) -> JobFilter:
    """The filter in a request. Its fields are those of a ListRequest."""
    is_empty = not request.filter.ListFields()
    if len(UnknownFieldSet(request.filter)):
        problems.add("filter", "has a field that this server does not know: more jobs would match without it")
    elif is_empty and not request.all:
        problems.add("filter", "is empty: set all if every job is meant")
    elif request.all and not is_empty:
        problems.add("all", "cannot be combined with a filter")
    as_list = pb.ListRequest.FromString(request.filter.SerializeToString())
    problems.item = "filter."
    wanted = job_filter(as_list, caller.reach, ahead, problems)
    problems.item = ""
    return wanted
