"""The commands that change one job: start, progress, complete, fail, release, report-usage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobstate_client.cli.commands.completion import complete_job_ids
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import DOCUMENT, INT32_MAX, INT64_MAX, SPAN, common, kept
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.output import Output, state_cell
from jobstate_client.views.summaries import change_summary

if TYPE_CHECKING:
    from jobstate_client.core.values import Job
    from jobstate_client.sync.client import Client

F = TypeVar("F", bound=Callable[..., Any])

job_id = click.argument("job_id", metavar="ID", shell_complete=complete_job_ids)
job_ids = click.argument("job_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_job_ids)
request_id = click.option(
    "--request-id",
    default="",
    metavar="TEXT",
    help="Makes a repeat safe: a second command with the same id changes nothing twice. [default: generated]",
)
attempt = click.option(
    "--attempt",
    type=click.IntRange(1, INT32_MAX),
    help="The attempt that reports, as acquire or start returned it. Optional during the first attempt.",
)


def usage(command: F) -> F:
    """Add the options for the usage of an attempt."""
    tokens = click.option("--tokens", type=click.IntRange(0, INT64_MAX), help="Tokens of the attempt so far, in total.")
    cost = click.option("--cost", type=float, help="Cost of the attempt so far, in total.")
    return tokens(cost(command))


def change(ctx: click.Context, name: str, *arguments: Any, **fields: Any) -> Job:
    """Make a call that returns the job, and show its outcome."""
    with connected(ctx) as client:
        return change_with(ctx, client, name, *arguments, **fields)


def change_with(ctx: click.Context, client: Client, name: str, *arguments: Any, **fields: Any) -> Job:
    """The same with this client."""
    try:
        job: Job = getattr(client, name)(*arguments, **fields)
    except (TypeError, ValueError) as error:
        # The library refused an argument, for example a cost that is not a number.
        raise click.UsageError(_in_options(error, ctx), ctx) from error
    output = Output(as_json=bool(kept(ctx, "json")))
    if output.as_json:
        output.document(job)
    else:
        summary = change_summary(job)
        output.text(f"{job.id} is ", state_cell(job.state), f", {summary}" if summary else "")
    return job


def for_each(ctx: click.Context, job_ids: Iterable[str], act: Callable[[Client, str], object]) -> Exit:
    """Do this with each of these jobs, once. What the server refuses for one is reported, and the others go on.

    Returns the exit code. An error that would meet the others too is raised.
    """
    from jobstate_client.cli.commands.error_report import report
    from jobstate_client.cli.terminal.error_messages import exit_code
    from jobstate_client.errors import JobStateError

    code = Exit.DONE
    with connected(ctx) as client:
        for job_id in dict.fromkeys(job_ids):
            try:
                act(client, job_id)
            except JobStateError as error:
                if exit_code(error) is not Exit.REFUSED:
                    raise
                sys.stdout.flush()
                report(error, ctx)
                code = Exit.REFUSED
    return code


def _in_options(error: Exception, ctx: click.Context) -> str:
    from jobstate_client.cli.commands.error_report import with_options

    return with_options(str(error), ctx.command)


@click.command(short_help="Begin the first attempt, or claim a resumed one.")
@job_id
@click.option("--worker", default="", metavar="TEXT", help="Name of the worker, for people.")
@request_id
@common
@click.pass_context
def start(ctx: click.Context, /, job_id: str, **fields: Any) -> None:
    """Begin the first attempt of a job, or claim one that the server resumed.

    The output names the attempt: give it with every report, as --attempt.
    """
    change(ctx, "start", job_id, **fields)


@click.command(short_help="Report the progress of the running attempt.")
@job_id
@click.option("--progress", "percent", type=click.IntRange(0, 100), metavar="PERCENT", help="Progress of the attempt.")
@click.option("--message", metavar="TEXT", help="Message for people; empty removes it.")
@click.option("--metadata", type=DOCUMENT, help="Merged into the job's, key by key; null removes a key. JSON or @FILE.")
@usage
@attempt
@common
@click.pass_context
def progress(ctx: click.Context, /, job_id: str, percent: int | None, message: str | None, **fields: Any) -> None:
    """Report the progress of the running attempt; without options, that it is alive."""
    change(ctx, "progress", job_id, percent, message, **fields)


@click.command(short_help="Complete the running attempt and the job.")
@job_id
@click.option("--result-count", type=click.IntRange(0, INT64_MAX), help="How many results the work produced.")
@click.option("--result", type=DOCUMENT, help="Result of the work: a JSON object, or @FILE.")
@usage
@attempt
@request_id
@common
@click.pass_context
def complete(ctx: click.Context, /, job_id: str, **fields: Any) -> None:
    """Complete the running attempt, and with it the job."""
    change(ctx, "complete", job_id, **fields)


@click.command(short_help="Fail the running attempt.")
@job_id
@click.option("--code", default="", metavar="TEXT", help="Code of the failure, for programs.")
@click.option("--message", default="", metavar="TEXT", help="What went wrong, for people.")
@click.option("--details", type=DOCUMENT, help="Further data: a JSON object, or @FILE.")
@click.option("--retryable/--not-retryable", default=None, help="Whether a retry may succeed. [default: retryable]")
@click.option("--retry-delay", type=SPAN, help="Wait before the retry. [default: the type's backoff]")
@usage
@attempt
@request_id
@common
@click.pass_context
def fail(ctx: click.Context, /, job_id: str, code: str, message: str, **fields: Any) -> None:
    """Fail the running attempt. The output says what follows: a retry, or the end."""
    if fields["retryable"] is False and fields["retry_delay"] is not None:
        raise click.UsageError(
            "--retry-delay sets the time of a retry, --not-retryable forbids it: give only one.", ctx
        )
    change(ctx, "fail", job_id, code, message, **fields)


@click.command(short_help="Give the running attempt back: it costs no retry.")
@job_id
@click.option("--reason", default="", metavar="TEXT", help="Reason, for people.")
@click.option("--delay", type=SPAN, help="How long the job waits before its next attempt. [default: not at all]")
@click.option("--hold-lane", type=SPAN, help="How long no job of its lane is handed out. [default: not at all]")
@usage
@attempt
@request_id
@common
@click.pass_context
def release(ctx: click.Context, /, job_id: str, reason: str, **fields: Any) -> None:
    """Give the running attempt back without a verdict: it costs no retry, and the job is handed out again.

    Without --delay the job keeps its place in the order. For an answer 429 give --hold-lane too: the other jobs of its
    lane would get the same answer.
    """
    change(ctx, "release", job_id, reason, **fields)


@click.command("report-usage", short_help="Report what an attempt used, even after it ended.")
@job_id
@usage
@click.option("--attempt", type=click.IntRange(1, INT32_MAX), required=True, help="The attempt that used it.")
@common
@click.pass_context
def report_usage(ctx: click.Context, /, job_id: str, **fields: Any) -> None:
    """Report what an attempt has used in total, even after it ended. Totals only grow."""
    if fields["tokens"] is None and fields["cost"] is None:
        raise click.UsageError("Give --tokens, --cost or both.", ctx)
    change(ctx, "report_usage", job_id, **fields)
