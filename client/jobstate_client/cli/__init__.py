"""The command line ``jobstate`` (docs/cli.md). It begins with ``main``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from jobstate_client.cli.terminal.streams import ensure_streams

NEEDED = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments, or those of the process. Returns the exit code (``exits.py``)."""
    ensure_streams()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        print(
            f"jobstate: {names} not installed; install the command line with: pip install 'jobstate-grpc[cli]'",
            file=sys.stderr,
        )
        return 2
    try:
        from jobstate_client.cli.commands.app import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return 130
