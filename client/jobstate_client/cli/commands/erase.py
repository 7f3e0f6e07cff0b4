"""``jobstate erase``: delete jobs with every text that came with them."""

from __future__ import annotations

import sys

import click

from jobstate_client.cli.commands.connection import connected, long_timeout
from jobstate_client.cli.commands.options import common, kept, labels_option
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.output import Cell, Output
from jobstate_client.views.text import count, counted


@click.command(short_help="Delete final jobs with every text that came with them.")
@click.option("--id", "job_id", default="", metavar="ID", help="The job.")
@click.option("--source-id", default="", metavar="TEXT", help="The source of the jobs.")
@labels_option("The jobs with this label; may be repeated, then those with all of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@click.pass_context
def erase(ctx: click.Context, /, *, job_id: str, source_id: str, labels: dict[str, str], yes: bool) -> Exit:
    """Delete one final job, or all final jobs of a source or with a label, with every text that came with them.

    In the log their ids, types, states and times remain. Exits with 3 if jobs of the source or with the label are left
    that are not final or that others still need: repeat the command when they have ended.
    """
    if [bool(job_id), bool(source_id), bool(labels)].count(True) != 1:
        raise click.UsageError("Give --id, --source-id or --label, and only one of these.", ctx)
    if not yes:
        _confirm(ctx, job_id, source_id, labels)
    with connected(ctx) as client:
        erased = client.erase(job_id=job_id, source_id=source_id, labels=labels, **long_timeout(ctx))
    output = Output(as_json=bool(kept(ctx, "json")))
    if output.as_json:
        output.document(erased)
    else:
        ids = f"{counted(erased.request_ids, 'request id')} forgotten"
        output.text(f"{counted(erased.jobs, 'job')} and {counted(erased.events, 'event')} erased, {ids}.")
        if erased.unfinished:
            output.text(f"{counted(erased.unfinished, 'job')} left, not final or still needed:")
        for left in erased.unfinished_job_ids:
            output.text(f"  {left}")
        if erased.unfinished > len(erased.unfinished_job_ids):
            output.text(Cell(f"  and {count(erased.unfinished - len(erased.unfinished_job_ids))} more", "dim"))
    return Exit.LATER if erased.unfinished else Exit.DONE


def _confirm(ctx: click.Context, job_id: str, source_id: str, labels: dict[str, str]) -> None:
    """Ask, where somebody can answer."""
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody can be asked here: give --yes.", ctx)
    if job_id:
        what = f"the job {job_id}"
    elif source_id:
        what = f"all final jobs of the source {source_id}"
    else:
        what = f"all final jobs with {' and '.join(f'{key}={text}' for key, text in labels.items())}"
    click.confirm(f"Erase {what}? This cannot be undone.", abort=True, err=True)
