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
    """A client of the server that the options name, closed in the end."""
    # What gRPC logs by itself is told by our own errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from jobstate_client.sync.client import Client

    ctx.meta[CALLER] = ctx
    timeout = kept(ctx, "timeout")
    if timeout is not None:
        arguments = {"timeout": timeout} | arguments
    with Client(server_of(ctx), tls=tls_of(ctx), **arguments) as client:
        yield client


def long_timeout(ctx: click.Context) -> dict[str, Any]:
    """The timeout of a call that has a long one of its own, where another was asked for."""
    timeout = kept(ctx, "timeout")
    return {} if timeout is None else {"timeout": timeout}
