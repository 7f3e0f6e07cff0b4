"""Create and BatchCreate."""

from __future__ import annotations

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain import limits
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.limits import MAX_RETRIES_MAX, TIMEOUT_MAX
from jobstate_server.rpc.requests.keys import NewId, request_key
from jobstate_server.rpc.requests.problems import Problems
from jobstate_server.wire.times import span_from


def create(request: pb.CreateRequest, caller: Caller, new_id: NewId) -> c.Create:
    """The command in a Create. Raises InvalidField."""
    problems = Problems()
    command = _create(request, caller, new_id, problems, "")
    problems.refuse()
    return command


def batch_create(request: pb.BatchCreateRequest, caller: Caller, new_id: NewId) -> c.BatchCreate:
    """The command in a BatchCreate. Raises InvalidField."""
    problems = Problems()
    creates = []
    if problems.count("requests", len(request.requests), limits.BATCH_ITEMS_MAX, low=1):
        for index, item in enumerate(request.requests):
            creates.append(_create(item, caller, new_id, problems, f"requests[{index}]."))
            if problems.are_enough:
                break
    problems.refuse()
    return c.BatchCreate(caller=caller, creates=tuple(creates))


def _create(request: pb.CreateRequest, caller: Caller, new_id: NewId, problems: Problems, prefix: str) -> c.Create:
    """The command, with a new id if the request has none. It is not valid if there are problems."""
    job_id, job_type, source_id, request_id = request.id, request.job_type, request.source_id, request.request_id
    if job_id:
        problems.job_id(prefix + "id", job_id)
    problems.job_type(prefix + "job_type", job_type)
    problems.source_id(prefix + "source_id", source_id)
    metadata = b""
    if request.HasField("metadata"):
        metadata = problems.document(prefix + "metadata", request.metadata, limits.METADATA_BYTES_MAX)
    max_retries = request.max_retries if request.max_retries or request.HasField("max_retries") else None
    if max_retries is not None:
        problems.within(prefix + "max_retries", max_retries, 0, MAX_RETRIES_MAX)
    timeout = None
    if request.HasField("timeout"):
        problems.span(prefix + "timeout", request.timeout, 0, TIMEOUT_MAX, "0 (none) to 30 days")
        timeout = span_from(request.timeout)
    problems.request_id(request_id, prefix + "request_id")
    return c.Create(
        job_id or new_id(),
        caller,
        request_key(caller, "Create", request, request_id),
        job_type=job_type,
        source_id=source_id,
        metadata=metadata,
        max_retries=max_retries,
        timeout=timeout or None,
        no_timeout=timeout == 0,
    )
