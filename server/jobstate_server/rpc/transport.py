"""The options of gRPC itself: what it accepts from a network of which nothing is known yet."""

from __future__ import annotations

import resource

from jobstate_server.rpc.transport_limits import CONNECTION_STREAMS_MAX, CONNECTIONS_MAX, TRANSPORT_BYTES_MAX

FILES_RESERVED = 128
"""Open files that are not for callers: the store, its readers, gRPC's own, the port for probes."""

PENDING_CALLS_MAX = 4_096
"""Calls that gRPC has received and our event loop has not yet seen: a second of work. Each takes some 10 KiB."""

ENDED_STREAMS_MAX = CONNECTION_STREAMS_MAX
"""Streams of a connection that have ended and are not yet freed. If none were allowed, gRPC would refuse a third of 256
calls that a well-behaved client makes together. Without a limit, calls that are reset at once fill the queue for
all."""

HANDSHAKE_MS = 10_000
"""How long the handshake of a connection may take: two connection attempts of our clients."""

IDLE_MS = 2 * 60_000
"""A connection without calls is closed after this time. The client opens another when it needs one."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # Otherwise two servers on one port would share its connections, but a store file has only one server.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", TRANSPORT_BYTES_MAX),
    ("grpc.max_concurrent_streams", CONNECTION_STREAMS_MAX),
    # Limits the streams that have ended, for example by a reset, before our event loop has seen their calls.
    ("grpc.http.overload_protection", 1),
    ("grpc.http2.max_deallocating_streams", ENDED_STREAMS_MAX),
    # Otherwise what gRPC receives before a stream is read grows with the throughput of its connection, per stream.
    ("grpc.http2.bdp_probe", 0),
    # A compressed request could count a thousandth of its real size. It ends with UNIMPLEMENTED.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # By default gRPC silently cancels some calls if more than 1,000 arrive at once. We refuse with OVERLOADED.
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_CALLS_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.max_connection_idle_ms", IDLE_MS),
    # Clients ping idle watches to keep them alive through proxies. gRPC's default of 5 min would refuse such pings.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # The streams of a dead client end after 80 s of silence, not after two hours. ping_timeout_ms limits the wait for
    # the answer to a ping: grpc.keepalive_timeout_ms has no effect in grpcio 1.85, and the default is 60 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
)


def transport_options() -> list[tuple[str, int]]:
    """The options of the server on the port for callers."""
    return [*SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", connections_max())]


def connections_max() -> int:
    """Connections that may be open, within the open files that the system allows, so that clients cannot take the last
    file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if files == resource.RLIM_INFINITY else max(1, min(CONNECTIONS_MAX, files - FILES_RESERVED))
