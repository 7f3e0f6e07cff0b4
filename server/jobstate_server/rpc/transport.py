"""How gRPC itself is set up: what it takes from a network of which nothing is known yet."""

from __future__ import annotations

import resource

from jobstate_server.rpc.limits import CONNECTION_STREAMS_MAX, CONNECTIONS_MAX, TRANSPORT_BYTES_MAX

FILES_KEPT = 128
"""Open files that are not for callers: the store, its readers, gRPC's own, the port for probes."""

PENDING_CALLS_MAX = 4_096
"""Calls that gRPC has received and our loop has not seen: a second of work. Each takes some 10 KiB."""

ENDED_STREAMS_MAX = CONNECTION_STREAMS_MAX
"""Streams of a connection that have ended and are not yet forgotten. Without room for any, gRPC refuses a third of 256
calls that one honest client makes together; without a limit, calls that are reset at once fill the queue for all."""

HANDSHAKE_MS = 10_000
"""How long a connection may take to say the first thing: two attempts of our clients to connect."""

IDLE_MS = 2 * 60_000
"""After so long without a call a connection is closed. A client opens another when it needs one."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # Two servers on one port would share its connections, and one file has one server.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", TRANSPORT_BYTES_MAX),
    ("grpc.max_concurrent_streams", CONNECTION_STREAMS_MAX),
    # Streams that have ended, such as by a reset, and whose calls our loop has yet to see: gRPC refuses more of them.
    ("grpc.http.overload_protection", 1),
    ("grpc.http2.max_deallocating_streams", ENDED_STREAMS_MAX),
    # What gRPC receives before a stream is read would grow with the throughput of its connection, for each stream.
    ("grpc.http2.bdp_probe", 0),
    # A thousandth of the bytes would be counted on the way in. A request that is compressed ends UNIMPLEMENTED.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Of more than 1,000 calls that come at once gRPC would cancel some without a word; we refuse with OVERLOADED.
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_CALLS_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.max_connection_idle_ms", IDLE_MS),
    # Clients ping idle watches to keep them alive through proxies; gRPC's default of 5 min calls that too many pings.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A dead client's streams end after 80 s of silence, not after two hours. It is this option that limits the wait for
    # the answer: grpc.keepalive_timeout_ms has no effect, in grpcio 1.85, and the limit without either is 60 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
)


def transport_options() -> list[tuple[str, int]]:
    """The options of the server at the port for callers."""
    return [*SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", connections_max())]


def connections_max() -> int:
    """Connections that may be open at once, within what the system allows: no client takes the last file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if files == resource.RLIM_INFINITY else max(1, min(CONNECTIONS_MAX, files - FILES_KEPT))
