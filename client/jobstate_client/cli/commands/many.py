"""The commands that change one job, or all that match a filter: retry, cancel, recreate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobstate_client.cli.commands.changes import change_with, for_each, request_id
from jobstate_client.cli.commands.completion import complete_job_ids, complete_sources
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import MOMENT, common, kept
from jobstate_client.cli.commands.queries import found_by, job_type_option, state_option
from jobstate_client.cli.commands.relations import check_related, relations_of_listed
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.output import Cell, Output, note
from jobstate_client.core.states import SkipReason, State
from jobstate_client.errors import InvalidField, RequestIdReused
from jobstate_client.views.text import count, counted

if TYPE_CHECKING:
    from jobstate_client.core.inspection import BulkProgress

F = TypeVar("F", bound=Callable[..., Any])

LIMIT_MAX = 1_000_000
"""The most jobs of one call in the contract."""

_FILTERS = (
    "states",
    "job_types",
    "source_id",
    "group",
    "needed_by",
    "needs",
    "wait_reasons",
    "created_from",
    "created_before",
    "labels",
    "worker",
    "error_code",
    "completed_from",
    "completed_before",
)

_WHY = {
    SkipReason.STATE: "in a state that does not allow it",
    SkipReason.GROUP: "a group",
    SkipReason.RETRIES: "not to be retried",
    SkipReason.UNIQUE_KEY: "with a unique key that another job has",
    SkipReason.JOB_TYPE: "of a type that the server does not take",
}


def many(command: F) -> F:
    """Add the ids, the filters and what belongs to them."""
    for option in reversed(
        (
            click.argument("job_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_job_ids),
            state_option,
            job_type_option,
            click.option(
                "--source-id",
                default="",
                metavar="TEXT",
                shell_complete=complete_sources,
                help="Only jobs with this source_id.",
            ),
            relations_of_listed,
            found_by,
            click.option(
                "--create-time-from",
                "created_from",
                type=MOMENT,
                help="Only jobs created then or later; 2h is 2 h ago.",
            ),
            click.option("--create-time-to", "created_before", type=MOMENT, help="Only jobs created before then."),
            click.option("--all", is_flag=True, help="All jobs from whose state it is possible."),
            click.option("--limit", type=click.IntRange(0, LIMIT_MAX), default=0, help="At most so many jobs."),
            click.option("--dry-run", is_flag=True, help="Only count the jobs that match."),
            click.option("--yes", is_flag=True, help="Do not ask. Needed where nobody can be asked."),
            request_id,
            common,
        )
    ):
        command = option(command)
    return command


@click.command(short_help="Retry failed jobs, or skip the wait for their retry.")
@many
@click.option("--immediately", is_flag=True, help="Skip the wait, or the rest of it.")
@click.pass_context
def retry(ctx: click.Context, /, job_ids: tuple[str, ...], *, immediately: bool, **fields: Any) -> Exit:
    """Retry jobs that stay in FAILED, or skip the wait for their retry: those with these IDs, or all that match."""
    return _change(ctx, "retry", job_ids, fields, {"immediately": immediately}, "retried")


@click.command(short_help="Cancel jobs.")
@many
@click.option("--reason", default="", metavar="TEXT", help="Reason, for people.")
@click.pass_context
def cancel(ctx: click.Context, /, job_ids: tuple[str, ...], *, reason: str, **fields: Any) -> Exit:
    """Cancel jobs: those with these IDs, or all that match. Their workers get the error with their next report."""
    return _change(ctx, "cancel", job_ids, fields, {"reason": reason}, "cancelled")


@click.command(short_help="Make new jobs with the terms of some that ended.")
@many
@click.option("--failed", is_flag=True, help="Only jobs in PERMANENTLY_FAILED.")
@click.pass_context
def recreate(ctx: click.Context, /, job_ids: tuple[str, ...], *, failed: bool, **fields: Any) -> Exit:
    """Make new jobs with the terms of jobs that ended: of those with these IDs, or of all that match.

    The old jobs stay as they are. With --request-id a second command goes on with the work of the first, and no job is
    recreated twice.
    """
    if failed:
        fields["states"] = (*fields["states"], State.PERMANENTLY_FAILED.value)
    return _change(ctx, "recreate", job_ids, fields, {}, "recreated")


def _change(
    ctx: click.Context,
    name: str,
    job_ids: tuple[str, ...],
    fields: dict[str, Any],
    own: dict[str, Any],
    done: str,
) -> Exit:
    """Change the jobs with these ids, or all that match."""
    filters = {key: fields[key] for key in _FILTERS if fields[key]}
    is_bulk = bool(filters or fields["all"] or fields["dry_run"] or fields["limit"])
    if job_ids and (is_bulk or (fields["request_id"] and len(job_ids) > 1)):
        what = "a filter, --all, --limit and --dry-run" if is_bulk else "--request-id, with more than one ID"
        raise click.UsageError(f"ID names jobs, and so does not go with {what}.", ctx)
    if not job_ids and not filters and not fields["all"]:
        raise click.UsageError("Give an ID, a filter, or --all if every job is meant.", ctx)
    if job_ids:
        own |= {"request_id": fields["request_id"]}
        return for_each(ctx, job_ids, lambda client, job_id: change_with(ctx, client, name, job_id, **own))
    check_related(ctx, {key: fields[key] for key in _FILTERS})
    own |= {key: fields[key] for key in ("all", "limit")} | filters
    _change_many(ctx, name, own, fields, done)
    return Exit.DONE


def _change_many(ctx: click.Context, name: str, arguments: dict[str, Any], fields: dict[str, Any], done: str) -> None:
    """Change all jobs that match, after asking."""
    output = Output(as_json=bool(kept(ctx, "json")))
    with connected(ctx) as client:
        call = getattr(client, f"{name}_many")
        if fields["dry_run"] or not fields["yes"]:
            counts = call(dry_run=True, **arguments)
            if fields["dry_run"]:
                _write(output, counts, f"would be {done}")
                return
            _ask(ctx, counts, done)
        from jobstate_client.core.operations import new_request_id

        request_id = fields["request_id"] or new_request_id()
        try:
            progress = call(request_id=request_id, **arguments)
        except (InvalidField, RequestIdReused):
            raise
        except BaseException:
            note(f"what was begun is kept: with --yes --request-id {request_id} the same command goes on with it")
            raise
    _write(output, progress, f"{'was' if progress.done == 1 else 'were'} {done}")


def _ask(ctx: click.Context, counts: BulkProgress, done: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody can be asked here: give --yes, or --dry-run to see what would be done.", ctx)
    number = ("more than " if counts.more else "") + counted(counts.done, "job")
    click.confirm(f"{number} would be {done}. Go on?", abort=True, err=True)


def _write(output: Output, progress: BulkProgress, did: str) -> None:
    if output.as_json:
        output.document(
            {
                "matched": progress.matched,
                "done": progress.done,
                "skipped": {reason.value: number for reason, number in progress.skipped.items()},
                "more": progress.more,
                "limit_reached": progress.limit_reached,
                "job_ids": progress.job_ids,
                "request_id": progress.request_id,
            }
        )
        return
    output.text(("more than " if progress.more else "") + f"{counted(progress.done, 'job')} {did}.")
    for reason, number in progress.skipped.items():
        output.text(f"  skipped: {counted(number, 'job')} {_WHY.get(reason, 'for a reason in the log of the server')}")
    for job_id in progress.job_ids:
        output.text(f"  {job_id}")
    if progress.done > len(progress.job_ids):
        output.text(Cell(f"  and {count(progress.done - len(progress.job_ids))} more", "dim"))
