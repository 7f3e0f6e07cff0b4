"""``jobstate run``: a worker whose handler is a command."""

from __future__ import annotations

import logging
import shutil
from datetime import timedelta
from typing import Any

import click

from jobstate_client.cli.commands.completion import complete_job_types
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import INT32_MAX, SPAN, common, server_of
from jobstate_client.cli.terminal.log_notes import LogNotes
from jobstate_client.cli.terminal.signals import stopping_on_signals

CONCURRENCY_MAX = 1_000
"""Each is a process, and a thread here."""


@click.command("run", short_help="Be a worker: run a command for each job.")
@click.argument("job_type", shell_complete=complete_job_types)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.option("--concurrency", type=click.IntRange(1, CONCURRENCY_MAX), default=1, help="Jobs at a time. [default: 1]")
@click.option("--max-jobs", type=click.IntRange(1, INT32_MAX), help="End after so many attempts.")
@click.option("--until-empty", is_flag=True, help="End once no job is ready and none is running.")
@click.option("--once", is_flag=True, help="Do one job if one is ready, and end.")
@click.option("--stop-within", type=SPAN, help="After SIGTERM, give back what still runs then. [default: never]")
@click.option(
    "--kill-after",
    type=SPAN,
    default=timedelta(seconds=10),
    help="How long the command may take to end after SIGTERM. [default: 10s]",
)
@click.option(
    "--worker", default="", metavar="TEXT", help="Name of the worker, for people. [default: host and process]"
)
@common
@click.pass_context
def run_(
    ctx: click.Context,
    /,
    *,
    job_type: str,
    command: tuple[str, ...],
    concurrency: int,
    worker: str,
    **ends: Any,
) -> None:
    """Be a worker of JOB_TYPE: run COMMAND for each job, until Ctrl-C or SIGTERM.

    The command gets the metadata of the job as JSON on standard input, and JOBSTATE_JOB_ID, JOBSTATE_ATTEMPT,
    JOBSTATE_SOURCE_ID, JOBSTATE_JOB_TYPE and JOBSTATE_SERVER in its environment. A line such as "50% half way" of its
    output reports progress. Heartbeats are sent while it runs.

    \b
    Its exit code is the verdict:
      0          the job is completed
      64 to 78   it fails and is not retried: the lasting errors of sysexits.h, but for
      75         EX_TEMPFAIL, and any other code or signal: it fails, and is retried
    """
    from jobstate_client.cli.commands.command_runner import CommandRunner

    once, max_jobs, stop_within = ends["once"], ends["max_jobs"], ends["stop_within"]
    if once and max_jobs is not None:
        raise click.UsageError("--once is --max-jobs 1 --until-empty: give only one.", ctx)
    if shutil.which(command[0]) is None:
        raise click.UsageError(f"there is no program {command[0]!r}", ctx)
    runner = CommandRunner(
        command, server_of(ctx), kill_after_s=ends["kill_after"].total_seconds(), names_jobs=concurrency > 1
    )
    with connected(ctx) as client, LogNotes(logging.getLogger("jobstate_client")):
        try:
            working = client.worker(runner, job_types=[job_type], concurrency=concurrency, worker=worker)
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error), ctx) from error
        try:
            with stopping_on_signals(lambda: working.stop(stop_within)):
                working.run(max_jobs=1 if once else max_jobs, until_empty=once or ends["until_empty"])
        finally:
            runner.end_all()
