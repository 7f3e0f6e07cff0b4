"""The server's limits that the client checks itself, so that what it accepts is never refused for them.

They are the server's own (docs/errors.md); tests/client/test_validation.py compares them.
"""

from __future__ import annotations

BATCH_ITEMS_MAX = 1_000
"""Jobs of one BatchCreate."""

BATCH_NEEDS_MAX = 1_000
"""Needs of one BatchCreate together."""

REQUEST_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of a request."""

DOCUMENT_BYTES_MAX = 64 * 1024
"""Encoded size of metadata, and of a result."""

DETAILS_BYTES_MAX = 8 * 1024
"""Encoded size of an error's details."""

NESTING_MAX = 16
"""Levels of objects and lists in a document, counting the document itself. A deeper one would break the whole batch:
no protobuf parser would read it."""

TEXT_BYTES_MAX = 4 * 1024
"""Bytes of a message."""

CODE_BYTES_MAX = 128
"""Bytes of an error's code."""

WORKER_BYTES_MAX = 128
"""Bytes of a worker's name."""

TOKENS_MAX = 10**15
COST_MAX = 1_000_000_000.0
RESULT_COUNT_MAX = 2**53 - 1

RETRY_DELAY_S_MAX = 7 * 24 * 3600.0

HOLD_LANE_S_MAX = 3600.0
"""Longest time for which a release holds its lane."""

SPAN_S_MAX = 1_000_000_000.0
"""Thirty years: more than the server accepts anywhere, and less than the longest wait of a thread."""
