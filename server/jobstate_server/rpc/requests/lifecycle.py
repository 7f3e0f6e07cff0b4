"""The requests of operators and users: Retry, Cancel, Recreate and CloseGroup."""

from __future__ import annotations

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain import limits
from jobstate_server.domain.caller import Caller
from jobstate_server.rpc.requests.keys import NewId, request_key
from jobstate_server.rpc.requests.problems import Problems


def retry(request: pb.RetryRequest, caller: Caller, _new_id: NewId) -> c.Retry:
    """The command in a Retry. Raises InvalidField."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.request_id(request.request_id)
    problems.refuse()
    return c.Retry(
        job_id=request.id,
        caller=caller,
        request=request_key(caller, "Retry", request, request.request_id),
        immediately=request.immediately,
    )


def cancel(request: pb.CancelRequest, caller: Caller, _new_id: NewId) -> c.Cancel:
    """The command in a Cancel. Raises InvalidField."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.text("reason", request.reason, limits.TEXT_BYTES_MAX)
    problems.request_id(request.request_id)
    problems.refuse()
    return c.Cancel(
        job_id=request.id,
        caller=caller,
        request=request_key(caller, "Cancel", request, request.request_id),
        reason=request.reason,
    )


def recreate(request: pb.RecreateRequest, caller: Caller, new_id: NewId) -> c.Recreate:
    """The command in a Recreate. Raises InvalidField."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.request_id(request.request_id)
    problems.refuse()
    return c.Recreate(
        job_id=request.id,
        caller=caller,
        request=request_key(caller, "Recreate", request, request.request_id),
        new_id=new_id(),
    )


def close_group(request: pb.CloseGroupRequest, caller: Caller) -> c.CloseGroup:
    """The command in a CloseGroup. Raises InvalidField."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.refuse()
    return c.CloseGroup(job_id=request.id, caller=caller)
