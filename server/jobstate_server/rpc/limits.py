"""The limits of the transport, each with its reason. Those of the contract are in ``domain/limits.py``."""

from __future__ import annotations

from jobstate_server.domain import limits as contract
from jobstate_server.domain.limits import MEBIBYTE

TRANSPORT_BYTES_MAX = contract.REQUEST_BYTES_MAX + 2 * MEBIBYTE
"""What gRPC itself receives. Above our own limit, so that the refusal of what is a little too large can carry its
ErrorInfo."""

CONNECTIONS_MAX = 1_000
"""Connections; more are closed as they come. Each takes a file and some 30 KiB."""

CONNECTION_STREAMS_MAX = 100
"""Calls and streams that a connection has open at once; gRPC's clients let the next one wait. It is what HTTP/2
recommends at least (RFC 9113, 6.5.2), and what bounds the cost of calls that are reset at once."""

CALLS_MAX = 2_048
"""Unary calls open at once, until their answers have been read. Each takes some 20 KiB; more would only wait. The
last quarter is kept for connections that have none open, so that it takes 512 connections to shut out another."""

OPEN_STREAMS_MAX = 3_000
"""Watches and StreamUpdates streams open at once, unless the settings say otherwise. Each takes some 30 KiB. The last
sixteenth is kept for connections that have none open."""

REQUESTS_BYTES_MAX = 64 * MEBIBYTE
"""Requests on their way and batches in hand, unless the settings say otherwise: six of the largest requests."""

BATCH_WEIGHT = 3
"""What a batch in hand takes of memory, in its own bytes: as it came, as it was parsed, as it will be written."""

ANSWERS_BYTES_MAX = 32 * MEBIBYTE
"""Answers that have been prepared and not read; one connection may have a quarter. gRPC keeps a second copy."""

STREAMS_MAX = 1_024
"""StreamUpdates streams open at once, the last quarter for connections that have none open."""

STREAMS_BYTES_MAX = 32 * MEBIBYTE
"""Batches under way and answers not yet read, of all StreamUpdates streams: four of the largest batches. In
memory they are there twice: parsed, and for a moment as they came."""

STREAMS_CONNECTION_BYTES_MAX = STREAMS_BYTES_MAX // 4
"""Of that, what one connection may hold: one of the largest batches, and no three can shut out a fourth."""

STREAMS_WAITING_BYTES_MAX = 16 * MEBIBYTE
"""Batches that gRPC has received and that wait for room among those under way: one of every stream, if each has 16 KiB.
A stream whose batch comes beyond that ends with OVERLOADED."""

OUTCOME_BYTES = 512
"""What an update's outcome is reckoned at before it is known: a refusal with its message. Others take a tenth."""

UNREAD_S = 10.0
"""Seconds without an answer being read, after which a stream is ended if others wait for the memory that it holds."""
