"""``jobstate acquire``: asks for work, and gives back what it cannot deliver."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from jobstate_client.cli.commands.changes import request_id
from jobstate_client.cli.commands.completion import complete_job_types
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import INT32_MAX, SPAN, common, kept, server_of
from jobstate_client.cli.terminal.output import Output, note, state_cell
from jobstate_client.cli.terminal.signals import exit_on_signals
from jobstate_client.views.text import span

if TYPE_CHECKING:
    from jobstate_client.core.values import Job


@click.command(short_help="Get work: begin the attempts of jobs that are ready.")
@click.argument("job_types", metavar="JOB_TYPE...", nargs=-1, required=True, shell_complete=complete_job_types)
@click.option("--max-jobs", type=click.IntRange(1, INT32_MAX), default=1, help="Get at most so many jobs. [default: 1]")
@click.option("--wait", type=SPAN, help="How long to wait for the first job, at most 1m. [default: not at all]")
@click.option(
    "--lease", type=SPAN, help="The attempts fail after so long without a report, 5s to 1h. [default: the type's]"
)
@click.option("--worker", default="", metavar="TEXT", help="Name of the worker, for people.")
@request_id
@common
@click.pass_context
def acquire(ctx: click.Context, /, job_types: tuple[str, ...], **arguments: Any) -> None:
    """Get work: begin the attempts of jobs of these types that are ready, and show them, the next one first.

    Report on each job within every lease, with progress, complete, fail or release, and with the --attempt shown. A job
    that could not be shown, because of Ctrl-C or a closed pipe, is released again. If no job is ready, the command
    writes nothing to standard output and ends with 0.
    """
    from jobstate_client.cli.commands.acquiring import Acquiring

    output = Output(as_json=bool(kept(ctx, "json")))
    with connected(ctx) as client, exit_on_signals():
        acquiring = Acquiring(client, server_of(ctx), list(job_types), **arguments)
        jobs = acquiring.acquire()
        for index, job in enumerate(jobs):
            try:
                _write(output, job)
            except BaseException:
                acquiring.give_back(jobs[index:])
                raise
    if not jobs and not output.as_json:
        note("no job is ready")


def _write(output: Output, job: Job) -> None:
    if output.as_json:
        output.document(job)
    else:
        lease = f", lease {span(job.lease)}" if job.lease is not None else ""
        output.text(f"{job.id} is ", state_cell(job.state), f", attempt {job.attempt}{lease}")
    sys.stdout.flush()
