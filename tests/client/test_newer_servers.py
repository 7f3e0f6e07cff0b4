"""A value of a newer server keeps its name or its number: in values, counts, errors and on the command line."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import AttemptSuperseded, Client, EventType, Refused, State, TransitionNotAllowed
from jobstate_client.cli import main
from jobstate_client.core import decoding, inspection_decoding
from jobstate_client.core.calls import RPCS
from jobstate_client.core.rpc_errors import error_for_reason

from .test_scripted import trailer

PAUSED, SLEEPING, MOVED = 98, 99, 77

JOB = job_pb2.Job(id="job", job_type="default", state=PAUSED, version=1)  # type: ignore[arg-type]
EVENT = event_pb2.Event(
    sequence=1,
    type=MOVED,  # type: ignore[arg-type]
    name="processing-job.moved",
    previous_state=SLEEPING,  # type: ignore[arg-type]
    job=JOB,
)
STATS = pb.GetStatsResponse()
for _number, _count in ((PAUSED, 3), (SLEEPING, 4)):
    STATS.total.stored.add(state=_number, count=_count)


def test_a_state_that_is_not_named_keeps_its_number() -> None:
    state = decoding.job(JOB).state

    assert state == "UNKNOWN_98"
    assert isinstance(state, State)
    assert not state.is_known
    assert not state.is_final
    assert state not in {State.UNKNOWN, *State}
    assert State.QUEUED.is_known
    assert not State.UNKNOWN.is_known
    assert decoding.job(job_pb2.Job()).state is State.UNKNOWN


def test_such_a_value_is_the_same_however_often_it_comes() -> None:
    first, second = decoding.job(JOB).state, decoding.job(JOB).state

    assert first == second
    assert len({first, second}) == 1
    for value in (first, State.QUEUED):
        assert copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value  # noqa: S301
    assert pickle.loads(pickle.dumps(State.QUEUED)) is State.QUEUED  # noqa: S301


def test_an_event_of_an_unknown_type_has_its_name() -> None:
    event = decoding.event(EVENT)

    assert (event.type, event.name, event.previous_state) == ("UNKNOWN_77", "processing-job.moved", "UNKNOWN_99")
    assert isinstance(event.type, EventType)


def test_counts_of_two_such_states_stand_side_by_side() -> None:
    assert inspection_decoding.stats(STATS).total.stored == {"UNKNOWN_98": 3, "UNKNOWN_99": 4}


def test_a_reason_that_is_not_named_is_kept() -> None:
    error = error_for_reason("QUOTA_SPENT", "no more today", {"state": "PAUSED"})

    assert type(error) is Refused
    assert (error.reason, Refused.reason) == ("QUOTA_SPENT", "")
    assert error_for_reason("JOB_NOT_FOUND", "", {}).reason == "JOB_NOT_FOUND"


@pytest.mark.parametrize("reason", ["TRANSITION_NOT_ALLOWED", "ATTEMPT_SUPERSEDED"])
def test_the_state_in_a_refusal_keeps_its_name(reason: str) -> None:
    error = error_for_reason(reason, "", {"state": "PAUSED"})

    assert isinstance(error, TransitionNotAllowed | AttemptSuperseded)
    assert error.state == "PAUSED"


@contextmanager
def newer_server() -> Iterator[str]:
    """The address of a server of a later version."""
    answered = {
        "Get": pb.GetResponse(job=JOB),
        "List": pb.ListResponse(jobs=[JOB]),
        "GetStats": STATS,
    }
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(
            lambda _request, _context, answer=answer: answer, response_serializer=type(answer).SerializeToString
        )
        for name, answer in answered.items()
    }

    def refuse(_request: bytes, context: Any) -> None:
        context.set_trailing_metadata(trailer("QUOTA_SPENT"))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more today")

    def watch(_request: bytes, _context: Any) -> Iterator[bytes]:
        yield pb.WatchEventsResponse(kind=pb.WATCH_RESPONSE_KIND_EVENTS, cursor="1", events=[EVENT]).SerializeToString()
        yield pb.WatchEventsResponse(kind=pb.WATCH_RESPONSE_KIND_SYNCED, cursor="1").SerializeToString()

    handlers["Cancel"] = grpc.unary_unary_rpc_method_handler(refuse)
    handlers["WatchEvents"] = grpc.unary_stream_rpc_method_handler(watch)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(RPCS["Get"].service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def told(capsys: pytest.CaptureFixture[str], address: str, *command: str) -> str:
    """What a command prints, on either of its outputs."""
    with suppress(SystemExit):
        main(["--server", address, *command])
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_the_command_line_shows_names_and_numbers(capsys: pytest.CaptureFixture[str], json: tuple[str, ...]) -> None:
    with newer_server() as address:
        stats = told(capsys, address, *json, "stats")
        listed = told(capsys, address, *json, "list")
        got = told(capsys, address, *json, "get", "job")
        watched = told(capsys, address, *json, "watch", "--no-follow")
        refused = told(capsys, address, *json, "cancel", "job")

    assert "UNKNOWN_98" in listed
    assert "UNKNOWN_98" in got
    assert "UNKNOWN_98" in stats
    assert "UNKNOWN_99" in stats
    assert "moved" in watched
    assert "QUOTA_SPENT" in refused


def test_a_client_reads_all_of_it() -> None:
    with newer_server() as address, Client(address) as client:
        assert client.get("job").state == "UNKNOWN_98"
        with pytest.raises(Refused) as caught:
            client.cancel("job")

    assert caught.value.reason == "QUOTA_SPENT"
