"""The exit codes. docs/cli.md has the same table, and a test compares them."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    REFUSED = 1
    """The server refused the call, and would refuse it again."""
    USAGE = 2
    """The command line is wrong, names something that cannot be read, or does not fit the server, such as its TLS."""
    LATER = 3
    """No server, no answer in time, or a server that asks to try later: the same command may succeed later."""
    BAD_STATE = 4
    """With --exit-state: the command succeeded, but a job or the health is in a bad state."""
    INTERRUPTED = 130
    """Ctrl-C."""
    BROKEN_PIPE = 141
    """The reader of the output stopped reading. The same code as for other programs in a shell."""
