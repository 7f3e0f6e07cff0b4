"""The synchronous client against scripted servers, which do what real ones seldom do."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc_testing
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import (
    TLS,
    AsyncClient,
    Client,
    DeadlineExceeded,
    Draining,
    JobNotFound,
    JobStateError,
    Overloaded,
    State,
    StoreUnavailable,
    TransportError,
    Unreachable,
)
from jobstate_client.core.calls import RPCS, SERVICES
from jobstate_client.core.channel import CONNECT_TIMEOUT_S, channel_options, service_config

from ..support.ports import ReservedPort
from .support import PATIENCE_S, in_thread, until

E = TypeVar("E", bound=Exception)

OK = grpc.StatusCode.OK
METHODS = {method.name: method for service in SERVICES for method in service.methods}


def trailer(reason: str, retry_ms: int | None = None, /, **metadata: str) -> tuple[tuple[str, bytes], ...]:
    """The status details of a refusal."""
    status = status_pb2.Status(code=14)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="jobstate", metadata=metadata))
    if retry_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_ms)
        packed = any_pb2.Any()
        packed.Pack(retry)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def refused_with(kind: type[E], method: Callable[..., Any], *arguments: Any, **options: Any) -> E:
    """The error of this kind that a call raises."""
    with pytest.raises(kind) as caught:
        method(*arguments, **options)
    return caught.value


def response(kind: pb.WatchResponseKind.ValueType, cursor: str, *sequences: int) -> pb.WatchEventsResponse:
    """A message of a watch."""
    events = [event_pb2.Event(sequence=sequence) for sequence in sequences]
    return pb.WatchEventsResponse(kind=kind, cursor=cursor, events=events)


class Script:
    """The server's side of a channel that leads nowhere."""

    def __init__(self) -> None:
        self.channel = grpc_testing.channel(SERVICES, grpc_testing.strict_real_time())
        self.client = Client(channel=self.channel)

    def unary(self, rpc: str) -> tuple[Any, Any]:
        """The next request to this RPC, and what answers it."""
        _, request, call = self.channel.take_unary_unary(METHODS[rpc])
        call.send_initial_metadata(())
        return request, call

    def refuse(self, rpc: str, code: grpc.StatusCode, trailing: Any = ()) -> Any:
        request, call = self.unary(rpc)
        call.terminate(None, trailing, code, "refused")
        return request

    def answer(self, rpc: str, response: Any) -> Any:
        request, call = self.unary(rpc)
        call.terminate(response, (), OK, "")
        return request

    def stream(self) -> tuple[pb.WatchEventsRequest, Any]:
        """The next watch."""
        _, request, call = self.channel.take_unary_stream(METHODS["WatchEvents"])
        call.send_initial_metadata(())
        return request, call


@pytest.fixture
def script() -> Script:
    return Script()


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("code", "reason"), [(UNAVAILABLE, "STORE_UNAVAILABLE"), (UNAVAILABLE, "DRAINING"), (EXHAUSTED, "OVERLOADED")]
)
def test_a_call_to_come_back_later_with_is_repeated_as_it_was(
    script: Script, code: grpc.StatusCode, reason: str
) -> None:
    with in_thread(lambda: script.client.complete("first", result_count=3)) as completed:
        sent = [script.refuse("Complete", code, trailer(reason, 1)) for _ in range(2)]
        job = job_pb2.Job(id="first", state=job_pb2.JOB_STATE_COMPLETED)
        sent.append(script.answer("Complete", pb.CompleteResponse(job=job)))

        assert completed().state is State.COMPLETED
    assert len(sent[0].request_id) >= 8
    assert sent[0] == sent[1] == sent[2]


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (UNAVAILABLE, "STORE_UNAVAILABLE", StoreUnavailable),
        (UNAVAILABLE, "DRAINING", Draining),
        (EXHAUSTED, "OVERLOADED", Overloaded),
    ],
)
def test_a_server_that_asks_for_more_time_than_there_is_is_not_asked_again(
    script: Script, code: grpc.StatusCode, reason: str, kind: type[JobStateError]
) -> None:
    with in_thread(lambda: refused_with(kind, script.client.create, "default", timeout=5.0)) as refused:
        request = script.refuse("Create", code, trailer(reason, 60_000))
        error = refused()

    assert error.retry_after == timedelta(seconds=60)
    assert error.request_id == request.request_id


def test_a_lost_connection_is_for_grpc_to_mend_and_then_raised(script: Script) -> None:
    with in_thread(lambda: refused_with(Unreachable, script.client.create, "default")) as refused:
        request = script.refuse("Create", UNAVAILABLE)

    assert refused().request_id == request.request_id


@pytest.mark.parametrize("mangled", [b"\xff\xff", b"\x1a\x05\x0a\x03abc"])
def test_details_that_a_proxy_has_mangled_leave_the_code(script: Script, mangled: bytes) -> None:
    with in_thread(lambda: refused_with(TransportError, script.client.get, "first")) as refused:
        _, call = script.unary("Get")
        call.terminate(None, (("grpc-status-details-bin", mangled),), grpc.StatusCode.NOT_FOUND, "gone")

    assert refused().code is grpc.StatusCode.NOT_FOUND


def test_facts_are_read_from_a_refusal(script: Script) -> None:
    with in_thread(lambda: refused_with(JobNotFound, script.client.get, "first")) as refused:
        script.refuse("Get", grpc.StatusCode.NOT_FOUND, trailer("JOB_NOT_FOUND", job_id="first"))

    assert refused().job_id == "first"


def test_a_drained_watch_continues_from_the_cursor_it_was_given(script: Script) -> None:
    watch = script.client.watch(start="earliest")
    with in_thread(lambda: [next(watch), next(watch)]) as events:
        request, call = script.stream()
        call.send_response(response(pb.WATCH_RESPONSE_KIND_SYNCED, "c0"))
        call.send_response(response(pb.WATCH_RESPONSE_KIND_EVENTS, "c1", 1))
        draining = response(pb.WATCH_RESPONSE_KIND_DRAINING, "c9")
        draining.reconnect_after.FromMilliseconds(1)
        call.send_response(draining)
        # grpcio-testing forgets responses that were not read when a call ends with an error.
        until(lambda: watch.cursor == "c9")
        call.terminate(trailer("DRAINING", 1), UNAVAILABLE, "stopping")
        resumed, call = script.stream()
        call.send_response(response(pb.WATCH_RESPONSE_KIND_EVENTS, "c10", 10))

        assert [event.sequence for event in events()] == [1, 10]
    assert (request.start, resumed.cursor, watch.cursor) == (pb.WATCH_START_EARLIEST, "c9", "c10")


class Servicer:
    """The Create of a server that does as it is told, call by call."""

    def __init__(self, *steps: Callable[[Any], Any]) -> None:
        self._steps = iter(steps)
        self.requests: list[Any] = []

    def create(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        next(self._steps)(context)
        return pb.CreateResponse(job=job_pb2.Job(id="first"))


def unavailable(context: Any) -> None:
    context.abort(UNAVAILABLE, "not now")


def fine(_context: Any) -> None:
    pass


@contextmanager
def serving(
    servicer: Servicer, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> Iterator[str]:
    rpc = RPCS["Create"]
    handler: Any = grpc.unary_unary_rpc_method_handler(
        servicer.create, rpc.request_type.FromString, rpc.response_type.SerializeToString
    )
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(rpc.service, {"Create": handler}),))
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait(PATIENCE_S)


def test_a_server_unavailable_twice_is_asked_again_by_grpc_with_the_same_request_id() -> None:
    servicer = Servicer(unavailable, unavailable, fine)
    with serving(servicer) as address, Client(address) as client:
        assert client.create("default").id == "first"

    assert len(servicer.requests) == 3
    assert servicer.requests[0].request_id
    assert servicer.requests[0] == servicer.requests[1] == servicer.requests[2]


def test_a_slow_server_is_given_up_at_the_deadline_of_the_call() -> None:
    answered = threading.Event()
    servicer = Servicer(lambda context: answered.wait(PATIENCE_S))
    with serving(servicer) as address, Client(address) as client:
        with pytest.raises(DeadlineExceeded) as late:
            client.create("default", timeout=0.2, request_id="my-own-id")
        answered.set()

    assert late.value.request_id == "my-own-id"


def test_a_server_that_comes_later_is_waited_for_when_asked_to() -> None:
    with (
        ReservedPort() as port,
        Client(port.address, wait_for_ready=True) as client,
        in_thread(lambda: client.create("default")) as created,
        serving(Servicer(fine), port.address),
    ):
        assert created().id == "first"


def test_a_server_that_is_slow_to_shake_hands_is_waited_for_and_not_called_unreachable() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        Client(f"127.0.0.1:{mute.getsockname()[1]}") as client,
        # An attempt to connect is given longer than this call has.
        pytest.raises(DeadlineExceeded),
    ):
        client.create("default", timeout=CONNECT_TIMEOUT_S - 1.5)


def test_grpc_repeats_every_call_but_the_streams() -> None:
    (method,) = json.loads(service_config())["methodConfig"]
    streams = {name for name, rpc in RPCS.items() if rpc.is_stream}

    assert {name["method"] for name in method["name"]} == set(RPCS) - streams
    assert streams == {"StreamUpdates", "WatchEvents"}
    assert "timeout" not in method


def test_keepalive_is_what_servers_allow_and_options_can_be_changed() -> None:
    options = dict(channel_options("jobs.example:443", None, [("grpc.keepalive_time_ms", 60_000)]))

    assert dict(channel_options("127.0.0.1:1", None, ()))["grpc.keepalive_time_ms"] >= 10_000
    assert options["grpc.keepalive_time_ms"] == 60_000
    assert "grpc.enable_http_proxy" not in options


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_tls_is_spoken_when_asked_for(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    command += ["-subj", "/CN=jobs.test", "-addext", "subjectAltName=DNS:jobs.test", "-keyout", str(key)]
    await asyncio.to_thread(subprocess.run, [*command, "-out", str(certificate)], check=True, capture_output=True)
    own = [(key.read_bytes(), certificate.read_bytes())]
    credentials = grpc.ssl_server_credentials(own, certificate.read_bytes(), require_client_auth=True)
    tls = TLS(
        root_certificates=certificate, certificate=certificate, private_key=key.read_bytes(), server_name="jobs.test"
    )

    with serving(Servicer(fine, fine), credentials=credentials) as address:
        with Client(address, tls=tls) as client:
            assert client.create("default").id == "first"
        async with AsyncClient(address, tls=tls) as async_client:
            assert (await async_client.create("default")).id == "first"
        with Client(address) as client, pytest.raises(Unreachable):
            client.create("default")
