"""What the exit codes mean. docs/cli.md has the same table, and a test holds it to this."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    REFUSED = 1
    """The server said no, and would again."""
    USAGE = 2
    """The command line is wrong, or names something that cannot be read or does not fit the server, such as TLS."""
    LATER = 3
    """No server, no answer in time, or a server that asks to come back: the same command may succeed later."""
    BAD_NEWS = 4
    """With --exit-state: the command was done, and what it found is not good."""
    INTERRUPTED = 130
    """Ctrl-C."""
    BROKEN_PIPE = 141
    """Who read the output stopped reading. As the shell tells it of other programs."""
