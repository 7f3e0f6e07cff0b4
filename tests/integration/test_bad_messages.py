"""What is too large, no message at all or for no method there is, is refused; a stream tells it in its place."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import ask, get, refused, struct
from ..support.server import Running
from .support import on_shared


@pytest.mark.parametrize("rpc", ["Create", "List", "WatchEvents"])
@on_shared
async def test_a_message_over_8_mib_is_too_large(stored: Running, rpc: str) -> None:
    requests: dict[str, Message] = {
        "Create": pb.CreateRequest(job_type="default", metadata=struct(blob="x" * 9 * 2**20)),
        "List": pb.ListRequest(source_id="x" * 9 * 2**20),
        "WatchEvents": pb.WatchEventsRequest(cursor="x" * 9 * 2**20),
    }

    refusal = await refused(ask(stored, rpc, requests[rpc]))

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert refusal.metadata == {"size": str(requests[rpc].ByteSize()), "size_max": str(8 * 2**20)}


@on_shared
async def test_a_message_that_grpc_itself_does_not_receive_is_refused_without_our_reason(stored: Running) -> None:
    request = pb.CreateRequest(job_type="default", metadata=struct(blob="x" * 17 * 2**20))

    refusal = await refused(stored.jobs.Create(request))

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "")


GARBAGE = {"no field": b"\xff\xff\xff", "cut short": b"\x0a\x10job", "text that is not UTF-8": b"\x0a\x01\xff"}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("rpc", ["Create", "Get", "WatchEvents"])
@on_shared
async def test_bytes_that_are_no_message_are_refused(stored: Running, rpc: str, raw: bytes) -> None:
    method = f"/jobstate.v1.JobService/{rpc}"
    channel: Any = stored.channel

    if rpc == "WatchEvents":
        refusal = await refused(anext(aiter(channel.unary_stream(method)(raw))))
    else:
        refusal = await refused(channel.unary_unary(method)(raw))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "request"}
    assert f"jobstate.v1.{rpc}Request" in refusal.message


@pytest.mark.parametrize("method", ["/jobstate.v1.JobService/Delete", "/jobstate.v2.JobService/Get"])
@on_shared
async def test_a_method_that_there_is_not_is_unimplemented(stored: Running, method: str) -> None:
    channel: Any = stored.channel

    assert (await refused(channel.unary_unary(method)(b""))).brief == ("UNIMPLEMENTED", "")


async def test_a_bad_update_of_a_stream_is_refused_in_its_place_and_breaks_nothing(running: Running) -> None:
    updates = [
        pb.JobUpdate(create=pb.CreateRequest(id="job", job_type="default")),
        pb.JobUpdate(),
        pb.JobUpdate(progress=pb.UpdateProgressRequest(id="job", progress=101)),
        pb.JobUpdate(start=pb.StartRequest(id="nobody")),
        pb.JobUpdate(complete=pb.CompleteRequest(id="job")),
        pb.JobUpdate(start=pb.StartRequest(id="job")),
    ]
    call = running.jobs.StreamUpdates(iter([pb.StreamUpdatesRequest(batch=7, updates=updates)]))

    answer = await anext(aiter(call))

    assert answer.batch == 7
    assert [(outcome.refusal.code, outcome.refusal.reason) for outcome in answer.outcomes] == [
        (0, ""),
        (3, "INVALID_FIELD"),
        (3, "INVALID_FIELD"),
        (5, "JOB_NOT_FOUND"),
        (9, "TRANSITION_NOT_ALLOWED"),
        (0, ""),
    ]
    assert answer.outcomes[2].refusal.metadata == {"field": "progress"}
    assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING


@on_shared
async def test_a_stream_ends_on_a_batch_of_too_many_updates(stored: Running) -> None:
    request = pb.StreamUpdatesRequest(updates=[pb.JobUpdate()] * 1_001)

    refusal = await refused(anext(aiter(stored.jobs.StreamUpdates(iter([request])))))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "updates"}


@on_shared
async def test_a_stream_ends_on_a_message_over_8_mib(stored: Running) -> None:
    large = pb.JobUpdate(create=pb.CreateRequest(job_type="default", metadata=struct(blob="x" * 9 * 2**20)))
    request = pb.StreamUpdatesRequest(updates=[large])

    refusal = await refused(anext(aiter(stored.jobs.StreamUpdates(iter([request])))))

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
