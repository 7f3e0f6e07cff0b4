"""How a channel is set up: keepalive, retries, TLS, the sizes of messages."""

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
"""For a call, repeats included: as long as a server takes to be restarted."""

KEEPALIVE_S = 30
"""Silence after which a ping is sent. The server allows one every 10 s."""

KEEPALIVE_ANSWER_S = 10
"""How long its answer may take: a dead connection is noticed 40 s after the last sign of life."""

RECONNECT_MAX_S = 5
"""Longest wait between attempts to connect. gRPC's own 120 s would outlast every restart by far."""

CONNECT_S = 5
"""How long one attempt to connect may take. A server that is busy, or pauses, is slow to shake hands; a shorter limit
would call it unreachable. A longer one would hold on to an address behind which nobody is any more."""

RESPONSE_BYTES_MAX = 16 * 1024 * 1024
"""Pages end at 1 MiB; the attempts of a job with a thousand retries and large error details may have ten."""

Pem = bytes | str | os.PathLike[str]
"""Certificates or a key, as they are or in the file of this name."""

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """How to talk to a server that has a certificate. Certificates and keys are PEM: bytes, or the path of a file."""

    root_certificates: Pem | None = None
    """Whom to trust; None trusts whom this machine trusts."""
    certificate: Pem | None = None
    """The client's own certificate chain, where the server asks for one."""
    private_key: Pem | None = None
    server_name: str = ""
    """The name in the server's certificate, where it is not the one in the target."""

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC wants of it."""
        return grpc.ssl_channel_credentials(
            _pem(self.root_certificates), _pem(self.private_key), _pem(self.certificate)
        )


def _pem(source: Pem | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    with open(source, "rb") as file:
        return file.read()


def service_config() -> str:
    """Retries by gRPC itself, of every call that one answer ends: all of them are safe to repeat.

    Streams are left out: they are resumed where they broke off, and that is for us to know.
    """
    names = [{"service": rpc.service, "method": rpc.name} for rpc in RPCS.values() if not rpc.is_stream]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 3,
        # A stopping server may cut off a call that reaches it at that moment, with CANCELLED.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})


def channel_options(target: str, tls: TLS | None, more: Options) -> list[tuple[str, Any]]:
    """The options of a channel to this target; of those given twice, ``more`` prevails."""
    options: dict[str, Any] = {
        "grpc.service_config": service_config(),
        "grpc.enable_retries": 1,
        "grpc.keepalive_time_ms": KEEPALIVE_S * 1_000,
        # grpc.keepalive_timeout_ms, which is what it should be called, has no effect in grpcio 1.85.
        "grpc.http2.ping_timeout_ms": KEEPALIVE_ANSWER_S * 1_000,
        # An idle watch has nothing to send; gRPC would stop pinging for it after the second.
        "grpc.http2.max_pings_without_data": 0,
        "grpc.initial_reconnect_backoff_ms": 100,
        # By its name a wait, but gRPC takes it for the limit of an attempt.
        "grpc.min_reconnect_backoff_ms": CONNECT_S * 1_000,
        "grpc.max_reconnect_backoff_ms": RECONNECT_MAX_S * 1_000,
        "grpc.max_receive_message_length": RESPONSE_BYTES_MAX,
    }
    if _is_loopback(target):
        # No proxy leads back to this machine, whatever the environment says.
        options["grpc.enable_http_proxy"] = 0
    if tls is not None and tls.server_name:
        options["grpc.ssl_target_name_override"] = tls.server_name
    return list((options | dict(more)).items())


def open_channel(target: str, tls: TLS | None, options: Options) -> grpc.Channel:
    """A channel for threads to this target. It connects when it is used."""
    chosen = channel_options(target, tls, options)
    if tls is None:
        return grpc.insecure_channel(target, options=chosen)
    return grpc.secure_channel(target, tls.credentials(), options=chosen)


def check_channel(channel: object, target: str, tls: TLS | None, options: Options) -> None:
    """Raise TypeError if there is a channel and something beside it that would be ignored."""
    if channel is not None and (target != DEFAULT_TARGET or tls is not None or options):
        raise TypeError("a channel has its target, tls and options already: give either it or them")


def _is_loopback(target: str) -> bool:
    return target.startswith(("127.", "localhost:", "[::1]:", "ipv4:127.", "ipv6:[::1]:"))
