"""Whether a client may be used: in the process that used it first, until it is closed."""

from __future__ import annotations

import os

from jobstate_client.errors import ClientClosed, ClientForked


class Lifetime:
    """The lifetime of one client. Nothing here takes a lock: a lock that was held during a fork stays locked."""

    def __init__(self) -> None:
        self._process: int | None = None
        self.is_closed = False

    @property
    def is_forked(self) -> bool:
        """Whether the client was used in a parent process before this one was forked."""
        return self._process is not None and self._process != os.getpid()

    def check(self) -> None:
        """Note that the client is used by this process.

        Raises:
            ClientClosed: it has been closed.
            ClientForked: it was used before this process was forked.
        """
        process = os.getpid()
        if self._process is None:
            self._process = process
        elif self._process != process:
            raise ClientForked(
                f"this client was used by process {self._process} before it forked this one ({process}); threads and"
                " connections are not inherited: make a client after the fork"
            )
        if self.is_closed:
            raise ClientClosed("the client is closed")
