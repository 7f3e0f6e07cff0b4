"""The limits of the contract, each with its reason. docs/errors.md lists them for users."""

from __future__ import annotations

from jobstate_server.domain.durations import DAY, HOUR, MINUTE, SECOND

MEBIBYTE = 1024 * 1024

REQUEST_BYTES_MAX = 8 * MEBIBYTE
"""A request. A batch of 1,000 ordinary creates has half a MiB; a quarter GiB of memory serves 32 of the largest."""

TRANSPORT_BYTES_MAX = REQUEST_BYTES_MAX + 2 * MEBIBYTE
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

ANSWERS_BYTES_MAX = 64 * MEBIBYTE
"""Answers that have been prepared and not read; one connection may have a quarter."""

STREAMS_MAX = 1_024
"""StreamUpdates streams open at once, the last quarter for connections that have none open."""

STREAMS_BYTES_MAX = 64 * MEBIBYTE
"""Batches under way and answers not yet read, of all StreamUpdates streams: eight batches of the largest."""

STREAMS_CONNECTION_BYTES_MAX = STREAMS_BYTES_MAX // 4
"""Of that, what one connection may hold: two of the largest batches, and no three can shut out a fourth."""

OUTCOME_BYTES = 512
"""What an update's outcome is reckoned at before it is known: a refusal with its message. Others take a tenth."""

UNREAD_S = 10.0
"""Seconds without an answer being read, after which a stream is ended if others wait for the memory that it holds."""

BATCH_ITEMS_MAX = 1_000
"""Items of a batch: twice what one transaction takes in, so that a batch never holds up others for long."""

ATTEMPTS_MAX = 100
"""Attempts that a Get returns, the latest. They end at RESPONSE_BYTES_MAX too."""

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1_000
"""Jobs of a page. A page ends at RESPONSE_BYTES_MAX too."""

RESPONSE_BYTES_MAX = MEBIBYTE
"""A page: a quarter of what gRPC clients accept by default."""

PAGE_TOKEN_LENGTH_MAX = 512
"""Characters of a page token; ours have at most 300."""

JOB_ID_LENGTH_MAX = 128
"""Characters of a job's id: room for a URN or two UUIDs; every event and index entry carries it."""

ID_PATTERN = rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{JOB_ID_LENGTH_MAX - 1}}}"
"""A job's id, safe in URLs, file names, shells and labels."""

JOB_TYPE_LENGTH_MAX = 64
"""Characters of a job type: it is part of every index, tally and label."""

SOURCE_ID_BYTES_MAX = 256
"""Bytes of a source id: room for a URI of ordinary length; it is indexed."""

WORKER_BYTES_MAX = 128
"""Bytes of a worker's name."""

TEXT_BYTES_MAX = 4 * 1024
"""Bytes of a message or reason. It is for people, and is carried by events; data belongs into details or metadata."""

ERROR_CODE_BYTES_MAX = 128
"""Bytes of an error's code."""

REQUEST_ID_LENGTH_MIN = 8
"""Characters of a request id: shorter ones collide by accident."""

REQUEST_ID_LENGTH_MAX = 128

COST_MAX = 1_000_000_000.0
"""Cost of one attempt: in nano-units it still fits an int64."""

TOKENS_MAX = 10**15
"""Tokens of one attempt: beyond any model, and sums of thousands stay within an int64."""

RESULT_COUNT_MAX = 2**53 - 1
"""The largest integer every client language holds exactly."""

WATCHED_JOBS_MAX = 1_000
"""Jobs one watch may name: each is an entry of an index."""

FILTER_VALUES_MAX = 100
"""Values of any other filter: a List walks an index for each pair of type and state."""


HEARTBEAT_MIN = 1 * SECOND
HEARTBEAT_DEFAULT = 30 * SECOND
"""Below the idle limit of common proxies, 60 s."""
HEARTBEAT_MAX = 5 * MINUTE

CLEANUP_AGE_MIN = 1 * HOUR
"""The youngest job that cleanup removes without force: whoever waits for it has had an hour to see that it ended."""

CLEANUP_AGE_MAX = 3_650 * DAY
"""Ten years; a larger number is a mistake of units."""
