"""The limits of the transport, each with its reason. Those of the contract are in ``domain/limits.py``."""

from __future__ import annotations

from jobstate_server.domain import limits as contract
from jobstate_server.domain.limits import MEBIBYTE

TRANSPORT_BYTES_MAX = contract.REQUEST_BYTES_MAX + 2 * MEBIBYTE
"""The largest message that gRPC accepts. It is above our own limit, so that the refusal of a request that is a little
too large has an ErrorInfo."""

CONNECTIONS_MAX = 1_000
"""Connections. Further ones are closed when they arrive. Each takes a file and some 30 KiB."""

CONNECTION_STREAMS_MAX = 100
"""Calls and streams that a connection may have open; gRPC's clients make the next one wait. It is the minimum that
HTTP/2 recommends (RFC 9113, 6.5.2), and limits the cost of calls that are reset at once."""

CALLS_MAX = 2_048
"""Unary calls that may be open; a call is open until its answer has been read. Each takes some 20 KiB, and more would
only wait. The last quarter is reserved for connections that have none open, so that it takes 512 connections to block
another one."""

OPEN_STREAMS_MAX = 3_000
"""The default of the Watches, StreamUpdates streams and calls of Acquire that may be open. A stream takes some 30 KiB,
a call of Acquire that waits some 22. The last sixteenth is reserved for connections that have none open."""

STREAM_BYTES = 30 * 1024
"""Memory that an open stream takes, or a call of Acquire at most."""

REQUESTS_BYTES_MAX = 64 * MEBIBYTE
"""The default of the bytes of requests that have not been read while memory is short, and of BatchCreates."""

BATCH_WEIGHT = 3
"""The memory that a BatchCreate takes, as a multiple of its bytes: received, parsed, and as it will be written."""

REQUEST_S = 1.0
"""Seconds after its headers in which a request must arrive while other calls are refused because too many are open. Its
first 64 KiB, which usually is all of it, need no answer from the server."""

MEMORY_SHORT = 184 * MEBIBYTE
"""Memory is short when the process has this much and what the settings give to caches, requests and streams: by default
512 MiB, two thirds of the most that a server takes."""

ANSWERS_BYTES_MAX = 32 * MEBIBYTE
"""Bytes of answers that have not been read. One connection may have a quarter. gRPC has a second copy of them."""

STREAMS_MAX = 1_024
"""StreamUpdates streams that may be open. The last quarter is reserved for connections that have none open."""

STREAMS_BYTES_MAX = 32 * MEBIBYTE
"""Bytes of the batches and unread answers of all StreamUpdates streams: four of the largest batches. In memory they are
there twice: parsed, and for a moment as they were received."""

STREAMS_CONNECTION_BYTES_MAX = STREAMS_BYTES_MAX // 4
"""The part of it that one connection may hold: one of the largest batches, and no three can block a fourth."""

OUTCOME_BYTES = 512
"""The assumed size of an outcome before it is known: a refusal with its message. Other outcomes take a tenth."""

UNREAD_S = 10.0
"""Seconds after which a stream whose client does not read its answers is ended, if others wait for its memory."""
