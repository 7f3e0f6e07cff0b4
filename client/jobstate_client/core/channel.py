"""The settings of a channel: keepalive, retries, TLS, message sizes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from jobstate_client.core.calls import RPCS

DEFAULT_TARGET = "127.0.0.1:50051"

DEFAULT_TIMEOUT_S = 30.0
"""For a call with all its repeats: as long as a restart of the server takes."""

KEEPALIVE_S = 30
"""A ping is sent after this long without traffic. The server allows one every 10 s."""

KEEPALIVE_TIMEOUT_S = 10
"""How long the answer to a ping may take: a dead connection is noticed 40 s after the last traffic."""

RECONNECT_MAX_S = 5
"""Longest wait between attempts to connect. gRPC's own 120 s is far longer than any restart."""

CONNECT_TIMEOUT_S = 5
"""How long one attempt to connect may take. A server that is busy or paused is slow to answer the handshake, and a
shorter limit would call it unreachable. A longer one would stay with an address where no server is any more."""

RESPONSE_BYTES_MAX = 16 * 1024 * 1024
"""Pages end at 1 MiB; the attempts of one job, and its metadata and result, need a little more. The rest is reserve."""

Pem = bytes | str | os.PathLike[str]
"""Certificates or a key: the content, or the path of a file."""

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """The TLS settings for a server with a certificate. Certificates and keys are PEM: bytes, or the path of a file."""

    root_certificates: Pem | None = None
    """The certificate authorities to trust; None trusts those of this machine."""
    certificate: Pem | None = None
    """The client's own certificate chain, if the server asks for one."""
    private_key: Pem | None = None
    server_name: str = ""
    """The name in the server's certificate, if it differs from the target."""

    def credentials(self) -> grpc.ChannelCredentials:
        """The same settings for gRPC."""
        return grpc.ssl_channel_credentials(
            _pem(self.root_certificates), _pem(self.private_key), _pem(self.certificate)
        )


def _pem(source: Pem | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    with open(source, "rb") as file:
        return file.read()


def service_config() -> str:
    """Lets gRPC retry every unary call: all of them are safe to repeat.

    Streams are left out: the client itself resumes them where they broke.
    """
    names = [{"service": rpc.service, "method": rpc.name} for rpc in RPCS.values() if not rpc.is_stream]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 3,
        # A server that is stopping may end a call that arrives at that moment with CANCELLED.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})


def channel_options(target: str, tls: TLS | None, more: Options) -> list[tuple[str, Any]]:
    """The options of a channel to this target; ``more`` overrides them."""
    options: dict[str, Any] = {
        "grpc.service_config": service_config(),
        "grpc.enable_retries": 1,
        "grpc.keepalive_time_ms": KEEPALIVE_S * 1_000,
        # grpc.keepalive_timeout_ms, the documented name, has no effect in grpcio 1.85.
        "grpc.http2.ping_timeout_ms": KEEPALIVE_TIMEOUT_S * 1_000,
        # An idle watch sends nothing; without this, gRPC would stop pinging after the second ping.
        "grpc.http2.max_pings_without_data": 0,
        "grpc.initial_reconnect_backoff_ms": 100,
        # Named a backoff, but gRPC uses it as the time limit of one attempt.
        "grpc.min_reconnect_backoff_ms": CONNECT_TIMEOUT_S * 1_000,
        "grpc.max_reconnect_backoff_ms": RECONNECT_MAX_S * 1_000,
        "grpc.max_receive_message_length": RESPONSE_BYTES_MAX,
    }
    if _is_loopback(target):
        # A proxy of the environment cannot reach this machine's loopback.
        options["grpc.enable_http_proxy"] = 0
    if tls is not None and tls.server_name:
        options["grpc.ssl_target_name_override"] = tls.server_name
    return list((options | dict(more)).items())


def open_channel(target: str, tls: TLS | None, options: Options) -> grpc.Channel:
    """A synchronous channel to this target. It connects when it is first used."""
    chosen = channel_options(target, tls, options)
    if tls is None:
        return grpc.insecure_channel(target, options=chosen)
    return grpc.secure_channel(target, tls.credentials(), options=chosen)


def check_channel(channel: object, target: str, tls: TLS | None, options: Options) -> None:
    """Raise TypeError if a channel is given together with an argument that would be ignored."""
    if channel is not None and (target != DEFAULT_TARGET or tls is not None or options):
        raise TypeError("a channel already has its target, tls and options: give either the channel or those")


def _is_loopback(target: str) -> bool:
    return target.startswith(("127.", "localhost:", "[::1]:", "ipv4:127.", "ipv6:[::1]:"))
