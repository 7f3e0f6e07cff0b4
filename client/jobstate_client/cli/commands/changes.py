"""Commands that change one job: create, start, progress, complete, fail, report-usage, retry, cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobstate_client.cli.commands.completion import complete_job_ids, complete_job_types
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import DOCUMENT, INT32_MAX, INT64_MAX, SPAN, common, kept
from jobstate_client.cli.terminal.output import Output, state_cell
from jobstate_client.views.summaries import change_summary

if TYPE_CHECKING:
    from jobstate_client.core.values import Job

F = TypeVar("F", bound=Callable[..., Any])

job_id = click.argument("job_id", metavar="ID", shell_complete=complete_job_ids)
request_id = click.option(
    "--request-id",
    default="",
    metavar="TEXT",
    help="Makes repeating the command safe: with the id of an earlier one it changes nothing twice. "
    "[default: one is made]",
)
attempt = click.option(
    "--attempt",
    type=click.IntRange(1, INT32_MAX),
    help="The attempt that reports, as start answered. May be left out during the first.",
)


def usage(command: F) -> F:
    """What an attempt used."""
    tokens = click.option("--tokens", type=click.IntRange(0, INT64_MAX), help="Tokens of the attempt so far, in total.")
    cost = click.option("--cost", type=float, help="Cost of the attempt so far, in total.")
    return tokens(cost(command))


def change(ctx: click.Context, name: str, *arguments: Any, **fields: Any) -> None:
    """Make a call that answers with the job, and tell what became of it."""
    with connected(ctx) as client:
        try:
            job: Job = getattr(client, name)(*arguments, **fields)
        except (TypeError, ValueError) as error:
            # What the library refuses before it is sent, such as a cost that is not a number.
            raise click.UsageError(str(error), ctx) from error
    output = Output(as_json=bool(kept(ctx, "json")))
    if output.as_json:
        output.document(job)
        return
    told = change_summary(job)
    output.text(f"{job.id} is ", state_cell(job.state), f", {told}" if told else "")


@click.command()
@click.argument("job_type", shell_complete=complete_job_types)
@click.option("--id", default="", metavar="ID", help="Id of the new job. [default: the server makes one]")
@click.option("--source-id", default="", metavar="TEXT", help="What the job works on, in your own naming.")
@click.option("--metadata", type=DOCUMENT, help="Free data to keep with the job: a JSON object, or @FILE.")
@click.option("--max-retries", type=click.IntRange(0, INT32_MAX), help="Retries it may have. [default: the type's]")
@click.option(
    "--attempt-timeout", type=SPAN, help="How long one attempt may take; 0 is without limit. [default: the type's]"
)
@request_id
@common
@click.pass_context
def create(ctx: click.Context, /, job_type: str, **fields: Any) -> None:
    """Create a job of JOB_TYPE. It is QUEUED until somebody starts it."""
    change(ctx, "create", job_type, **fields)


@click.command(short_help="Begin the first attempt, or claim a resumed one.")
@job_id
@click.option("--worker", default="", metavar="TEXT", help="Who does the work, for people to read.")
@request_id
@common
@click.pass_context
def start(ctx: click.Context, /, job_id: str, **fields: Any) -> None:
    """Begin the first attempt of a job, or claim one that the server resumed.

    The answer names the attempt: give it with every report, as --attempt.
    """
    change(ctx, "start", job_id, **fields)


@click.command(short_help="Report how far the running attempt is.")
@job_id
@click.option("--progress", "percent", type=click.IntRange(0, 100), metavar="PERCENT", help="How much is done.")
@click.option("--message", metavar="TEXT", help="What to tell people about it; empty clears it.")
@click.option("--metadata", type=DOCUMENT, help="Merged into the job's, key by key; null removes a key. JSON or @FILE.")
@usage
@attempt
@common
@click.pass_context
def progress(ctx: click.Context, /, job_id: str, percent: int | None, message: str | None, **fields: Any) -> None:
    """Report how far the running attempt is; with nothing to report, that it is alive."""
    change(ctx, "progress", job_id, percent, message, **fields)


@click.command(short_help="End the running attempt and the job, well.")
@job_id
@click.option("--result-count", type=click.IntRange(0, INT64_MAX), help="How many results the work gave.")
@click.option("--result", type=DOCUMENT, help="What the work gave: a JSON object, or @FILE.")
@usage
@attempt
@request_id
@common
@click.pass_context
def complete(ctx: click.Context, /, job_id: str, **fields: Any) -> None:
    """End the running attempt, and with it the job, well."""
    change(ctx, "complete", job_id, **fields)


@click.command(short_help="End the running attempt with an error.")
@job_id
@click.option("--code", default="", metavar="TEXT", help="Kind of failure, for programs to read.")
@click.option("--message", default="", metavar="TEXT", help="What went wrong, for people to read.")
@click.option("--details", type=DOCUMENT, help="Further data: a JSON object, or @FILE.")
@click.option("--retryable/--not-retryable", default=None, help="Whether trying again can help. [default: retryable]")
@click.option("--retry-delay", type=SPAN, help="Wait before the retry. [default: the type's backoff]")
@usage
@attempt
@request_id
@common
@click.pass_context
def fail(ctx: click.Context, /, job_id: str, code: str, message: str, **fields: Any) -> None:
    """End the running attempt with an error. The answer tells what follows: a retry, or the end."""
    if fields["retryable"] is False and fields["retry_delay"] is not None:
        raise click.UsageError("--retry-delay says when to try again, --not-retryable that nobody will: give one.", ctx)
    change(ctx, "fail", job_id, code, message, **fields)


@click.command("report-usage", short_help="Tell what an attempt used, even after it ended.")
@job_id
@usage
@click.option("--attempt", type=click.IntRange(1, INT32_MAX), required=True, help="The attempt that used it.")
@common
@click.pass_context
def report_usage(ctx: click.Context, /, job_id: str, **fields: Any) -> None:
    """Tell what an attempt has used in total, even after it ended. Totals only grow."""
    if fields["tokens"] is None and fields["cost"] is None:
        raise click.UsageError("Give --tokens, --cost or both.", ctx)
    change(ctx, "report_usage", job_id, **fields)


@click.command(short_help="Send a failed job back to work, or cut its wait.")
@job_id
@click.option("--immediately", is_flag=True, help="Skip the wait, or what is left of it.")
@request_id
@common
@click.pass_context
def retry(ctx: click.Context, /, job_id: str, **fields: Any) -> None:
    """Send a job that rests in FAILED back to work, or cut its wait short."""
    change(ctx, "retry", job_id, **fields)


@click.command(short_help="End a job before it is done.")
@job_id
@click.option("--reason", default="", metavar="TEXT", help="Why, for people to read.")
@request_id
@common
@click.pass_context
def cancel(ctx: click.Context, /, job_id: str, reason: str, **fields: Any) -> None:
    """End a job before it is done. Its worker learns of it with its next report."""
    change(ctx, "cancel", job_id, reason, **fields)
