"""The limits of the contract, each with its reason. docs/errors.md lists them for users."""

from __future__ import annotations

from jobstate_server.domain.durations import DAY, HOUR, MINUTE, SECOND

MEBIBYTE = 1024 * 1024

REQUEST_BYTES_MAX = 8 * MEBIBYTE
"""A request. A batch of 1,000 ordinary creates takes half a MiB; a quarter GiB of memory holds 32 of the largest."""

BATCH_ITEMS_MAX = 1_000
"""Items of a batch: twice as many as one transaction takes, so that a batch never delays others for long."""

ATTEMPTS_MAX = 100
"""Attempts that a Get returns, the latest ones. RESPONSE_BYTES_MAX limits them too."""

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1_000
"""Jobs of a page. RESPONSE_BYTES_MAX limits a page too."""

RESPONSE_BYTES_MAX = MEBIBYTE
"""A page: a quarter of the message size that gRPC clients accept by default."""

PAGE_TOKEN_LENGTH_MAX = 512
"""Characters of a page token; ours have at most 300."""

JOB_ID_LENGTH_MAX = 128
"""Characters of a job's id: room for a URN or two UUIDs. Every event and index entry has it."""

ID_PATTERN = rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{JOB_ID_LENGTH_MAX - 1}}}"
"""A job's id, safe in URLs, file names, shells and labels."""

JOB_TYPE_LENGTH_MAX = 64
"""Characters of a job type, which is part of every index, tally and label."""

SOURCE_ID_BYTES_MAX = 256
"""Bytes of a source id: room for a URI of ordinary length. It is indexed."""

WORKER_BYTES_MAX = 128
"""Bytes of a worker's name."""

TEXT_BYTES_MAX = 4 * 1024
"""Bytes of a message or reason. It is for people, and events contain it; data belong in details or metadata."""

ERROR_CODE_BYTES_MAX = 128
"""Bytes of an error's code."""

REQUEST_ID_LENGTH_MIN = 8
"""Characters of a request id at least: shorter ones collide by accident."""

REQUEST_ID_LENGTH_MAX = 128

COST_MAX = 1_000_000_000.0
"""Cost of one attempt: in nano-units it still fits an int64."""

TOKENS_MAX = 10**15
"""Tokens of one attempt: more than any model uses, and sums of thousands still fit an int64."""

RESULT_COUNT_MAX = 2**53 - 1
"""The largest integer that every client language represents exactly."""

WATCHED_JOBS_MAX = 1_000
"""Jobs that one watch may name: each is an entry of an index."""

FILTER_VALUES_MAX = 100
"""Values of any other filter: a List walks an index for each pair of type and state."""


HEARTBEAT_MIN = 1 * SECOND
HEARTBEAT_DEFAULT = 30 * SECOND
"""Below the idle limit of common proxies, 60 s."""
HEARTBEAT_MAX = 5 * MINUTE

CLEANUP_AGE_MIN = 1 * HOUR
"""The youngest job that cleanup deletes without force: its watchers have had an hour to see that it ended."""

CLEANUP_AGE_MAX = 3_650 * DAY
"""Ten years. A larger number is a mistake in the unit."""

MAX_RETRIES_MAX = 1_000
"""With more retries the job is polling, not retrying; by then the backoff has long reached its maximum."""

TIMEOUT_MAX = 30 * DAY
"""An attempt longer than the retention of finished jobs cannot be distinguished from a forgotten one."""

RETRY_DELAY_MAX = 7 * DAY
"""The event retention: the events of a job that waits longer may be gone before it is retried."""

DELAY_MAX = 366 * DAY
"""A job delayed for longer, or that may wait for longer, is a mistake in the unit."""

START_WITHIN_MIN = 1 * SECOND
"""Less would expire jobs before any worker could be told of them."""

NEEDS_MAX = 100
"""Jobs that a job may need. One that waits for more needs their group."""

NEEDS_OF_BATCH_MAX = 1_000
"""Needs of all jobs of a BatchCreate: as many as it may have jobs. Each is a row of the transaction and has a job read,
and both together fit into the part of the queue that one connection may take."""

NEEDS_AT_ONCE = 256
"""Needs that one transaction resolves: about 5 ms, so that callers never wait long behind them."""

MEMBERS_AT_ONCE = 256
"""Members of stopping groups that one transaction cancels, for the same reason."""

TOLERATED_FAILURES_MAX = 1_000_000_000
"""More than any group has members. -1 means any number."""

BULK_CHANGES_MAX = 1_000_000
"""Jobs that one bulk run changes: as many as a store of ordinary size has of a kind."""

BULK_IDS_RETURNED_MAX = 100
"""Ids in the answer to a bulk run: enough to inspect, never a large answer."""

BULK_CALLS_MAX = 8
"""Calls of bulk runs at a server. They take turns, so that all together take no more time than one."""

EXPLAINED_NEEDS_MAX = 10
"""Needed jobs that Explain names."""

ACQUIRED_MAX = 1_000
"""Jobs of one Acquire: as many as other batches have items."""

ACQUIRE_WAIT_MAX = 60 * SECOND
"""How long an Acquire may wait. Proxies end calls that are silent for longer."""

ACQUIRES_OF_BATCH_MAX = 8
"""Acquires in one batch of StreamUpdates, which share RESPONSE_BYTES_MAX: each has room for the largest job."""

LEASE_MIN = 5 * SECOND
"""A worker that is busy, or that collects its garbage, may be silent for a few seconds."""

LEASE_MAX = 1 * HOUR
"""Request ids are stored for at least as long, so that a repeat of an Acquire finds what is leased to it."""

LEASE_DEFAULT = 1 * MINUTE

PRIORITY_STEP_MAX = 7 * DAY
"""No ordinary job waits for so long. With a longer step the order would be the same."""

PRIORITY_STEP_DEFAULT = 10 * MINUTE

RELEASES_MAX = 1_000
"""With more releases a job is polling. A job that is to wait has a delay."""

UNIQUE_KEY_BYTES_MAX = 256
"""Bytes of a unique key: room for a URI of ordinary length. It is indexed."""

LABELS_MAX = 8
"""Labels of a job, or of a filter. Each of a job is a row of an index, and all its events have them."""

LABEL_BYTES_MAX = 64
"""Bytes of a label's key, and of its value: room for a UUID or a host's name. Longer texts belong in metadata."""

LABEL_KEY_PATTERN = rf"[A-Za-z0-9][A-Za-z0-9._:/-]{{0,{LABEL_BYTES_MAX - 1}}}"
"""A label's key: an id, or a name with a domain before it as in Kubernetes. The command line splits labels at ``=``."""

LANE_BYTES_MAX = 128
"""Bytes of a lane: room for a name or two UUIDs. It is in the index of ready jobs."""

HOLD_LANE_MAX = 1 * HOUR
"""How long a Release may hold its lane. Services that ask for a longer wait mean something else than a rate."""

CONCURRENCY_MAX = 1_000_000
"""A larger limit is none."""

METADATA_BYTES_MAX = 64 * 1024
"""Encoded size of a job's metadata after merging. It is stored in the job and sent with every List."""

RESULT_BYTES_MAX = 64 * 1024
"""Encoded size of a result: enough to describe a result, too little to store one. Store results elsewhere."""

DETAILS_BYTES_MAX = 8 * 1024
"""Encoded size of an error's details, which every event of the failed job contains."""

NESTING_MAX = 16
"""Levels of objects and lists in a document, which is itself the first. Each takes three of the 100 levels that
protobuf parsers accept, and in a watcher's message the document is four levels down."""
