"""Whether a client may be used: in the process that used it first, until it is closed."""

from __future__ import annotations

import os

from jobstate_client.errors import ClientClosed, ClientForked


class Lifetime:
    """The life of one client. Nothing here takes a lock: one that was held during a fork is held for ever."""

    def __init__(self) -> None:
        self._process: int | None = None
        self.is_closed = False

    @property
    def is_forked(self) -> bool:
        """Whether the client was used in another process, which this one was forked from."""
        return self._process is not None and self._process != os.getpid()

    def check(self) -> None:
        """Note that the client is used.

        Raises:
            ClientClosed: it has been closed.
            ClientForked: it was used before this process was forked.
        """
        process = os.getpid()
        if self._process is None:
            self._process = process
        elif self._process != process:
            raise ClientForked(
                f"this client belongs to process {self._process}, which this one ({process}) was forked from; threads"
                " and connections are not inherited, so make a client after the fork"
            )
        if self.is_closed:
            raise ClientClosed("the client is closed")
