"""``admin_listen``: /livez and /readyz over HTTP, and gRPC health, on one small port.

A connection that begins with HTTP/2's preface is forwarded to a small gRPC server; every other is HTTP/1.1. Threads
serve the port, so that probes are answered even when the event loop is busy or the port for callers is flooded.
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 32
"""Connections at once, with one or two threads each. Probes need a few; further ones are closed."""

SILENCE_MAX_S = 5.0
"""How long a connection may be silent. A probe sends its request at once."""

SILENT_TURNS_MAX = 4
"""Seconds without a round of the thread that accepts connections. It makes two a second."""

STOP_WAIT_S = 1.0
"""How long a stop waits for that thread."""

_HTTP2_PREFACE = b"PRI"
"""How every HTTP/2 connection begins (RFC 9113, 3.4), and no HTTP/1.1 request does."""

_CHUNK = 16 * 1024


@dataclass(frozen=True)
class ProbeLimits:
    """The limits of the admin port."""

    connections_max: int = CONNECTIONS_MAX
    silence_max_s: float = SILENCE_MAX_S


class ProbeAnswers(Protocol):
    """Where the answers to probes come from. Called from threads of the admin port."""

    def liveness(self) -> str | None:
        """Why the process should be restarted, None when it should not."""

    def readiness(self) -> str | None:
        """Why it should get no calls, None when it can answer them."""


class CannotListen(Exception):
    """The server cannot listen on the address."""


class _Server(http.server.ThreadingHTTPServer):
    """Accepts connections, and serves each in a thread."""

    daemon_threads = True
    request_queue_size = CONNECTIONS_MAX

    def __init__(
        self,
        address: tuple[str, int],
        family: socket.AddressFamily,
        answers: ProbeAnswers,
        grpc_port: int,
        limits: ProbeLimits,
    ) -> None:
        self.address_family = family
        self.answers = answers
        self.grpc_port = grpc_port
        self.silence_max_s = limits.silence_max_s
        self.rounds = 0
        """How many rounds the thread that accepts connections has made."""
        self._places = threading.BoundedSemaphore(limits.connections_max)
        super().__init__(address, _Handler)

    def service_actions(self) -> None:
        """Called by ``serve_forever`` twice a second and after each connection."""
        self.rounds += 1

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection to the admin port broke", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "jobstate"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.silence_max_s)

    def handle(self) -> None:
        if self.request.recv(len(_HTTP2_PREFACE), socket.MSG_PEEK) == _HTTP2_PREFACE:
            _forward(self.request, self.server.grpc_port, self.server.silence_max_s)
        else:
            super().handle()

    def do_GET(self) -> None:
        """Answer a probe."""
        ask = {"/livez": self.server.answers.liveness, "/readyz": self.server.answers.readiness}
        question = ask.get(self.path.partition("?")[0])
        if question is None:
            self._answer(HTTPStatus.NOT_FOUND, "there are /livez and /readyz")
            return
        trouble = question()
        self._answer(HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE, trouble or "ok")

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("admin port: %s", format % args)


def _forward(client: socket.socket, port: int, silence_max_s: float) -> None:
    """Copy bytes both ways until either side ends the connection or is silent for too long."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), silence_max_s) as server:
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)
        back.join()


def _copy(source: socket.socket, destination: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            destination.sendall(data)
    # Whatever ended this direction, the other one has nothing to wait for.
    for end in (source, destination):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class _Health(health_pb2_grpc.HealthServicer):
    """gRPC health: ``Check`` only. ``Watch`` is served on the port for callers."""

    def __init__(self, answers: ProbeAnswers) -> None:
        self._answers = answers

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """The health of the whole server, under the empty name."""
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "only the whole server has a health here: leave the service empty")
        is_ready = self._answers.readiness() is None
        response = health_pb2.HealthCheckResponse
        return response(status=response.SERVING if is_ready else response.NOT_SERVING)


class AdminPort:
    """The admin port and its threads. Any thread may call its methods."""

    def __init__(self, host: str, port: int, answers: ProbeAnswers, limits: ProbeLimits | None = None) -> None:
        """Listen.

        Raises:
            CannotListen: with the system's reason.
        """
        limits = limits or ProbeLimits()
        options = [("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", limits.connections_max)]
        self._grpc = grpc.server(ThreadPoolExecutor(2, "admin-grpc"), options=options)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(answers), self._grpc)
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            inner = self._grpc.add_insecure_port("127.0.0.1:0")
            listening = (str(address[0]), int(address[1])), socket.AddressFamily(family)
            self._server = _Server(*listening, answers, inner, limits)
        except (OSError, RuntimeError) as error:
            self._grpc.stop(None)
            reason = error.strerror if isinstance(error, OSError) else error
            raise CannotListen(f"cannot listen on {host}:{port} for admin_listen: {reason}") from error
        self.port: int = self._server.server_address[1]
        self._thread = self._new_thread()
        self._is_stopping = False
        self._rounds_seen = 0
        self._silent_turns = 0

    def _new_thread(self) -> threading.Thread:
        target: Callable[[], None] = self._server.serve_forever
        return threading.Thread(target=target, name="admin-port", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._grpc.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop answering, and close the port."""
        self._is_stopping = True
        # ``shutdown`` waits for the thread that accepts connections, which may hang.
        stopping = threading.Thread(target=self._server.shutdown, name="admin-port stop", daemon=True)
        if self._thread.is_alive():
            stopping.start()
            stopping.join(STOP_WAIT_S)
        self._server.server_close()
        self._grpc.stop(None)

    def turn(self) -> None:
        """Check whether the thread still makes rounds. Called by the watchdog once a second."""
        rounds = self._server.rounds
        self._silent_turns = self._silent_turns + 1 if rounds == self._rounds_seen else 0
        self._rounds_seen = rounds

    @property
    def dead(self) -> list[str]:
        """The name of the thread that accepts connections, once it has died or hangs."""
        has_died = self._thread.ident is not None and not self._thread.is_alive()
        hangs = self._silent_turns > SILENT_TURNS_MAX
        return [self._thread.name] if (has_died or hangs) and not self._is_stopping else []

    def restart(self) -> None:
        """Accept connections in a new thread. A thread that hangs is abandoned."""
        self._silent_turns = 0
        self._thread = self._new_thread()
        self._thread.start()
