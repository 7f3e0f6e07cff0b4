"""An exception that nobody foresaw is told to the log, and to the caller only by the id of the call."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.rules.decider import Decider

from ..support.calls import Refusal, ask, complete, refusal_of
from ..support.server import Running
from .support import on_shared

SECRET = "the password is hunter2"


def _assert_discreet(refusal: Refusal, error: grpc.aio.AioRpcError, caplog: pytest.LogCaptureFixture) -> None:
    told = f"{error!r} {error.details()} {list(error.trailing_metadata())} {error.debug_error_string()}"
    assert refusal.brief == ("INTERNAL", "INTERNAL")
    assert refusal.metadata.keys() == {"call_id"}
    assert refusal.details == []
    assert "hunter2" not in told
    assert "Traceback" not in told
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.__dict__["call_id"] == refusal.metadata["call_id"]
    assert record.exc_info is not None
    assert SECRET in str(record.exc_info[1])


def _planted(*_: object, **__: object) -> Any:
    raise RuntimeError(SECRET)


@pytest.mark.parametrize("rpc", ["Get", "List", "GetStats", "WatchEvents"])
@on_shared
async def test_an_exception_in_a_handler_is_told_to_the_log_alone(
    stored: Running, rpc: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests: dict[str, Message] = {
        "Get": pb.GetRequest(id="job"),
        "List": pb.ListRequest(),
        "GetStats": pb.GetStatsRequest(),
        "WatchEvents": pb.WatchEventsRequest(),
    }
    monkeypatch.setattr(stored.server.readers, "get", _planted)
    monkeypatch.setattr(stored.server.readers, "run", _planted)
    monkeypatch.setattr(stored.server.feed, "join", _planted)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(stored, rpc, requests[rpc])

    _assert_discreet(refusal_of(caught.value), caught.value, caplog)


@on_shared
async def test_an_exception_while_a_change_is_decided_is_told_to_the_log_alone(
    stored: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Decider, "decide", _planted)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await complete(stored)

    _assert_discreet(refusal_of(caught.value), caught.value, caplog)
