"""``jobstate top``: a live view of the jobs. ``top_view.py`` does the work, and is imported only for it."""

from __future__ import annotations

import sys

import click

from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import common, kept, server_of
from jobstate_client.cli.terminal.output import Output


@click.command(short_help="Watch all jobs on one screen.")
@common
@click.pass_context
def top(ctx: click.Context) -> None:
    """Watch all jobs on one screen: counts, running jobs, retries to come, events. q or Ctrl-C quits."""
    if kept(ctx, "json"):
        raise click.UsageError("top is for people; for programs there is: jobstate watch --snapshot --json", ctx)
    output = Output(as_json=False)
    if not (output.is_terminal and sys.stdin.isatty()) or output.console.is_dumb_terminal:
        raise click.UsageError("top needs a terminal that can move its cursor; use jobstate watch instead", ctx)
    with connected(ctx) as client:
        from jobstate_client.cli.terminal.top_view import TopView

        TopView(client, server_of(ctx), output.console).run()
