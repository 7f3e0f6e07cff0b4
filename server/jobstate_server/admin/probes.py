"""``admin_listen``: /livez and /readyz over HTTP, and gRPC health, on one small port.

A connection that begins as HTTP/2 does is handed on to a gRPC server of its own; every other is HTTP/1.1. Threads serve
it, so that neither a busy event loop nor a flood at the port for callers hides the server from its supervisor.
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 32
"""Connections at once, a thread or two each: a kubelet and a few dashboards need some. More are closed unanswered."""

PATIENCE_S = 5.0
"""How long a connection may be silent. Whoever asks for a probe asks at once."""

SILENT_TURNS_MAX = 4
"""Seconds for which the thread that accepts connections may not come round, which it does twice a second."""

STOP_WAIT_S = 1.0
"""How long a stop waits for that thread."""

_HTTP2_PREFACE = b"PRI"
"""How every HTTP/2 connection begins (RFC 9113, 3.4), and no HTTP/1.1 request does."""

_CHUNK = 16 * 1024


class Probed(Protocol):
    """What is asked. Called from threads of the admin port."""

    def liveness(self) -> str | None:
        """Why the process should be ended, None when it should not."""

    def readiness(self) -> str | None:
        """Why it should be sent no calls, None when it can answer them."""


class CannotListen(Exception):
    """The address cannot be listened on."""


class _Server(http.server.ThreadingHTTPServer):
    """The port."""

    daemon_threads = True
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, probed: Probed, grpc_port: int) -> None:
        self.address_family = family
        self.probed = probed
        self.grpc_port = grpc_port
        self.rounds = 0
        """How often the thread that accepts connections has come round."""
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
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
    timeout = PATIENCE_S
    protocol_version = "HTTP/1.1"
    server_version = "jobstate"
    sys_version = ""

    def handle(self) -> None:
        if self.request.recv(len(_HTTP2_PREFACE), socket.MSG_PEEK) == _HTTP2_PREFACE:
            _hand_on(self.request, self.server.grpc_port)
        else:
            super().handle()

    def do_GET(self) -> None:
        """Answer a probe."""
        ask = {"/livez": self.server.probed.liveness, "/readyz": self.server.probed.readiness}
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


def _hand_on(client: socket.socket, port: int) -> None:
    """Carry bytes both ways until either side ends, or nothing has come for long."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE_S) as server:
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)
        back.join()


def _copy(source: socket.socket, destination: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            destination.sendall(data)
    # Whatever ended it, the other direction has nothing to wait for.
    for end in (source, destination):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class _Health(health_pb2_grpc.HealthServicer):
    """gRPC health, asked once and answered; whoever wants to watch finds Watch at the port for callers."""

    def __init__(self, probed: Probed) -> None:
        self._probed = probed

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """How the server is, under the empty name."""
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "this port tells of the whole server: leave the service empty")
        is_ready = self._probed.readiness() is None
        response = health_pb2.HealthCheckResponse
        return response(status=response.SERVING if is_ready else response.NOT_SERVING)


class AdminPort:
    """The port and what serves it. Any thread may call its methods."""

    def __init__(self, host: str, port: int, probed: Probed) -> None:
        """Listen.

        Raises:
            CannotListen: with the system's reason.
        """
        options = [("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", CONNECTIONS_MAX)]
        self._grpc = grpc.server(ThreadPoolExecutor(2, "admin-grpc"), options=options)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(probed), self._grpc)
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            inner = self._grpc.add_insecure_port("127.0.0.1:0")
            self._server = _Server((str(address[0]), int(address[1])), socket.AddressFamily(family), probed, inner)
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
        """Begin to answer."""
        self._grpc.start()
        self._thread.start()

    def stop(self) -> None:
        """Answer no more, and give the port back."""
        self._is_stopping = True
        # It waits for the thread that accepts connections, which may hang.
        stopping = threading.Thread(target=self._server.shutdown, name="admin-port stop", daemon=True)
        if self._thread.is_alive():
            stopping.start()
            stopping.join(STOP_WAIT_S)
        self._server.server_close()
        self._grpc.stop(None)

    def turn(self) -> None:
        """A second has passed: see whether the thread still comes round. Called by the watchdog."""
        rounds = self._server.rounds
        self._silent_turns = self._silent_turns + 1 if rounds == self._rounds_seen else 0
        self._rounds_seen = rounds

    @property
    def dead(self) -> list[str]:
        """The thread that accepts connections, once it has ended though nobody told it to, or hangs."""
        has_died = self._thread.ident is not None and not self._thread.is_alive()
        hangs = self._silent_turns > SILENT_TURNS_MAX
        return [self._thread.name] if (has_died or hangs) and not self._is_stopping else []

    def restart(self) -> None:
        """Accept connections again. A thread that hangs is left behind."""
        self._silent_turns = 0
        self._thread = self._new_thread()
        self._thread.start()
