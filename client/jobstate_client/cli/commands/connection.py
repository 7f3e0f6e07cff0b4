"""The client that a command works with."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from jobstate_client.cli.commands.options import CALLER, kept, server_of, tls_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobstate_client.sync.client import Client


@contextmanager
def connected(ctx: click.Context, **arguments: Any) -> Iterator[Client]:
    """A client of the server that the options name. It is closed at the end of the block."""
    # gRPC's own log is switched off: our errors say the same.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from jobstate_client.sync.client import Client

    ctx.meta[CALLER] = ctx
    timeout = kept(ctx, "timeout")
    if timeout is not None:
        arguments = {"timeout": timeout} | arguments
    with Client(server_of(ctx), tls=tls_of(ctx), **arguments) as client:
        yield client


def long_timeout(ctx: click.Context) -> dict[str, Any]:
    """The --timeout as an argument for a call that has a long default of its own; empty if it was not given."""
    timeout = kept(ctx, "timeout")
    return {} if timeout is None else {"timeout": timeout}
