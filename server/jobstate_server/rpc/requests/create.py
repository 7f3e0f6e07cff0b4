"""Create and BatchCreate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain import limits
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.labels import to_text
from jobstate_server.domain.limits import MAX_RETRIES_MAX, TIMEOUT_MAX
from jobstate_server.domain.waiting import Priority, UniqueUntil
from jobstate_server.rpc.requests.keys import NewId, request_key
from jobstate_server.rpc.requests.problems import Problems
from jobstate_server.rpc.requests.relations import relations_in
from jobstate_server.wire.times import span_from, time_from

SLICE_ITEMS = 32
"""Items of a BatchCreate that are converted without a pause: about two milliseconds, if each has 8 KiB."""


def create(request: pb.CreateRequest, caller: Caller, new_id: NewId) -> c.Create:
    """The command in a Create. Raises InvalidField."""
    problems = Problems()
    command = _create(request, caller, new_id, problems)
    problems.refuse()
    return command


async def batch_create(
    request: pb.BatchCreateRequest, caller: Caller, new_id: NewId, next_slice: Callable[[], Awaitable[None]]
) -> c.BatchCreate:
    """The command in a BatchCreate. ``next_slice`` is waited for before each slice. Raises InvalidField."""
    problems = Problems()
    creates = []
    needs = 0
    if problems.count("requests", len(request.requests), limits.BATCH_ITEMS_MAX, low=1):
        for index, item in enumerate(request.requests):
            if index % SLICE_ITEMS == 0:
                await next_slice()
            problems.item = f"requests[{index}]."
            creates.append(_create(item, caller, new_id, problems))
            needs += len(item.needs)
            if needs > limits.NEEDS_OF_BATCH_MAX:
                rule = f"makes it more than {limits.NEEDS_OF_BATCH_MAX:,} needs in all: send several batches"
                problems.add("needs", rule)
                break
            if problems.are_enough:
                break
    problems.refuse()
    return c.BatchCreate(caller=caller, creates=tuple(creates))


def _create(request: pb.CreateRequest, caller: Caller, new_id: NewId, problems: Problems) -> c.Create:
    """The command, with a new id if the request has none. It is not valid if there are problems."""
    job_id, job_type, source_id, request_id = request.id, request.job_type, request.source_id, request.request_id
    if job_id:
        problems.job_id("id", job_id)
    problems.job_type("job_type", job_type)
    problems.source_id("source_id", source_id)
    metadata = b""
    if request.HasField("metadata"):
        metadata = problems.document("metadata", request.metadata, limits.METADATA_BYTES_MAX)
    max_retries = request.max_retries if request.max_retries or request.HasField("max_retries") else None
    if max_retries is not None:
        problems.within("max_retries", max_retries, 0, MAX_RETRIES_MAX)
    timeout = None
    if request.HasField("timeout"):
        problems.span("timeout", request.timeout, 0, TIMEOUT_MAX, "0 (none) to 30 days")
        timeout = span_from(request.timeout)
    problems.request_id(request_id)
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
        relations=relations_in(request, problems),
        **_about_hand_out(request, problems),
    )


def _about_hand_out(request: pb.CreateRequest, problems: Problems) -> Mapping[str, Any]:
    """The fields of the command that are about the hand-out, and the labels. Most calls set none, which a look at each
    tells."""
    is_plain = not (
        request.priority
        or request.unique_key
        or request.unique_until
        or request.WhichOneof("begin")
        or request.HasField("start_within")
        or request.HasField("lane")
        or request.labels
    )
    if is_plain:
        return _NOTHING
    _check_hand_out(request, problems)
    return {
        "level": request.priority or Priority.NORMAL,
        "delay": span_from(request.delay) if request.HasField("delay") else 0,
        "not_before_time": time_from(request.not_before_time) if request.HasField("not_before_time") else None,
        "start_within": span_from(request.start_within) if request.HasField("start_within") else None,
        "unique_key": request.unique_key,
        "unique_until": request.unique_until or UniqueUntil.FINAL,
        "lane": request.lane if request.HasField("lane") else None,
        "labels": to_text(request.labels),
    }


_NOTHING: Mapping[str, Any] = {}


def _check_hand_out(request: pb.CreateRequest, problems: Problems) -> None:
    """Check the fields that are about the hand-out, and the labels."""
    problems.labels("labels", request.labels)
    if request.lane:
        problems.text("lane", request.lane, limits.LANE_BYTES_MAX)
    if request.priority and request.priority not in job_pb2.Priority.values():
        problems.add("priority", f"{request.priority} is not a valid value of this enum")
    if request.HasField("delay"):
        problems.span("delay", request.delay, 0, limits.DELAY_MAX, "0 to 366 days")
    if request.HasField("not_before_time"):
        problems.time("not_before_time", request.not_before_time)
    if request.HasField("start_within"):
        bounds = limits.START_WITHIN_MIN, limits.DELAY_MAX
        problems.span("start_within", request.start_within, *bounds, "1 second to 366 days")
    if request.unique_key:
        problems.text("unique_key", request.unique_key, limits.UNIQUE_KEY_BYTES_MAX)
    if request.unique_until and request.unique_until not in pb.UniqueUntil.values():
        problems.add("unique_until", f"{request.unique_until} is not a valid value of this enum")
    elif request.unique_until and not request.unique_key:
        problems.add("unique_until", "needs unique_key")


def by_store_time(command: c.Create, ahead: int) -> c.Create:
    """The command with the caller's time as a time of the store.

    Args:
        ahead: by how much the store's time is ahead of the wall clock, which callers use.
    """
    if command.not_before_time is None or not ahead:
        return command
    return replace(command, not_before_time=command.not_before_time + ahead)


def batch_by_store_time(command: c.BatchCreate, ahead: int) -> c.BatchCreate:
    """The same for a batch."""
    if not ahead:
        return command
    return replace(command, creates=tuple(by_store_time(part, ahead) for part in command.creates))
