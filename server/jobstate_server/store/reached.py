"""How many jobs one transaction reads because an end must reach them."""

from __future__ import annotations

from jobstate_server.domain.limits import MEBIBYTE

LOADED_BYTES_MAX = 4 * MEBIBYTE
"""As many bytes as a batch of calls may have. A job may have 200 KB of documents."""


def share_of(limit: int, sharers: int) -> int:
    """How many jobs each of several that ended, or are stopping, may reach at once. At least one.

    So no end waits behind that of a job with very many others.
    """
    return max(1, limit // max(1, sharers))
