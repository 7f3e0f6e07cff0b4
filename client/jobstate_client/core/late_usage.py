"""Usage that came with a report whose attempt was over: the report is refused, but what was used was used."""

from __future__ import annotations

from typing import Any

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors as e
from jobstate_client.core.calls import Call

LATE = (e.AttemptSuperseded, e.TransitionNotAllowed)
"""Refusals of a report after which its usage is told by itself."""

LATE_USAGE_TIMEOUT_S = 5.0
"""How long that may take after a call: whoever made it waits for it, to be told of the refusal."""

_REPORTS = (pb.UpdateProgressRequest, pb.CompleteRequest, pb.FailRequest)


def late_usage(call: Call[Any], error: e.JobStateError) -> Call[None] | None:
    """What tells the usage that came with a refused call, if any did. An attempt that was not named is not guessed."""
    request = call.request
    if not (isinstance(error, LATE) and isinstance(request, _REPORTS)):
        return None
    if not (request.HasField("usage") and request.attempt):
        return None
    told = pb.ReportUsageRequest(id=request.id, attempt=request.attempt, usage=request.usage)
    return Call("ReportUsage", told, lambda response: None, LATE_USAGE_TIMEOUT_S)
