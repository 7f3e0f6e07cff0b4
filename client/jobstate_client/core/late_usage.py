"""Late usage: the usage in a report that was refused because the attempt was over. It was used all the same."""

from __future__ import annotations

from typing import Any

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core.calls import Call

LATE = (e.AttemptSuperseded, e.TransitionNotAllowed)
"""The errors after which the usage of a refused report is reported alone."""

LATE_USAGE_TIMEOUT_S = 5.0
"""How long that may take: the caller waits for it before it gets the error of its own call."""

_REPORTS = (pb.UpdateProgressRequest, pb.CompleteRequest, pb.FailRequest, pb.ReleaseRequest)


def late_usage(call: Call[Any], error: e.JobStateError) -> Call[None] | None:
    """The call that reports the usage of a refused call; None if it had none, or did not name its attempt."""
    request = call.request
    if not (isinstance(error, LATE) and isinstance(request, _REPORTS)):
        return None
    if not (request.HasField("usage") and request.attempt):
        return None
    usage = pb.ReportUsageRequest(id=request.id, attempt=request.attempt, usage=request.usage)
    return Call("ReportUsage", usage, lambda response: None, LATE_USAGE_TIMEOUT_S)
