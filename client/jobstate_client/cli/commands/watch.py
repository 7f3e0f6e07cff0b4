"""``jobstate watch``: events as they happen, one on each line; on a terminal with the running jobs below."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobstate_client.cli.commands.completion import complete_job_ids, complete_sources
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.cursor_file import CursorFile
from jobstate_client.cli.commands.options import PATH, SPAN, common, kept, labels_option, server_of
from jobstate_client.cli.commands.queries import job_type_option
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.output import Output, note
from jobstate_client.cli.terminal.watch_printers import JsonPrinter, LinePrinter, WatchPrinter
from jobstate_client.core.states import EventType, State
from jobstate_client.core.values import Event, SnapshotJob, SnapshotStarted, Synced

if TYPE_CHECKING:
    from jobstate_client.sync.client import Client

_LATE_TYPES = {EventType.DELETED, EventType.USAGE}
"""What may still come of a job that is final."""

EVENT_TYPES = [type_.value for type_ in EventType if type_ is not EventType.UNKNOWN]


@click.command(short_help="Follow events as they happen.")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_job_ids)
@job_type_option
@click.option(
    "--source-id",
    "source_ids",
    multiple=True,
    metavar="TEXT",
    shell_complete=complete_sources,
    help="Only of this source_id; may be repeated.",
)
@labels_option("Only of jobs with this label; may be repeated, then with all of them.")
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice(EVENT_TYPES, case_sensitive=False),
    help="Only events of this type; may be repeated.",
)
@click.option("--from-earliest", is_flag=True, help="Begin at the oldest event that is kept.")
@click.option("--cursor", default="", metavar="TEXT", help="Begin after this position of an earlier watch.")
@click.option(
    "--cursor-file",
    type=PATH,
    metavar="FILE",
    help="Begin after the cursor in FILE, if there is one, and store the new one after each response.",
)
@click.option(
    "--snapshot",
    is_flag=True,
    help="Begin with the matching jobs as they are. Not with --cursor; with --cursor-file while that is empty.",
)
@click.option("--no-follow", is_flag=True, help="End after the events up to now.")
@click.option("--until-final", is_flag=True, help="End when all the jobs named by ID are final.")
@click.option(
    "--exit-state",
    is_flag=True,
    help=f"With --until-final: exit with {Exit.BAD_STATE.value} unless all of them are COMPLETED.",
)
@click.option("--latest-progress", is_flag=True, help="Leave out progress that later progress replaces.")
@click.option("--heartbeat-interval", type=SPAN, help="How often the server sends at least a heartbeat. [default: 30s]")
@click.option("--patience", type=SPAN, help="How long the server may be away. [default: for ever]")
@common
@click.pass_context
def watch(
    ctx: click.Context,
    /,
    *,
    cursor_file: Path | None,
    exit_state: bool,
    from_earliest: bool,
    no_follow: bool,
    **chosen: Any,
) -> Exit:
    """Follow the events of all jobs, or of those named by ID or chosen by filters, as they happen.

    The watch resumes by itself when the server restarts, without missing or repeating an event. If none of the jobs
    named by ID exists or goes on, it says so and ends.
    """
    _check(ctx, cursor_file, exit_state, from_earliest, no_follow, chosen)
    file = None if cursor_file is None else CursorFile(cursor_file)
    if file is not None:
        chosen["cursor"] = file.read()
    if from_earliest and not chosen["cursor"]:
        chosen["start"] = "earliest"
    output = Output(as_json=bool(kept(ctx, "json")))
    with connected(ctx) as client:
        try:
            code = _follow(ctx, client, output, file, follow=not no_follow, **chosen)
        except Exception:
            sys.stdout.flush()
            raise
        return _final_states(client, chosen["job_ids"]) if exit_state else code


def _check(
    ctx: click.Context,
    cursor_file: Path | None,
    exit_state: bool,
    from_earliest: bool,
    no_follow: bool,
    chosen: dict[str, Any],
) -> None:
    if cursor_file is not None and chosen["cursor"]:
        raise click.UsageError("--cursor and --cursor-file both set the beginning: give only one.", ctx)
    if chosen["cursor"] and from_earliest:
        raise click.UsageError("--cursor and --from-earliest both set the beginning: give only one.", ctx)
    if chosen["snapshot"] and from_earliest:
        raise click.UsageError(
            "--snapshot begins with the jobs as they are, --from-earliest with their first events: give only one.", ctx
        )
    if chosen["snapshot"] and chosen["cursor"]:
        raise click.UsageError(
            "--snapshot begins with the jobs as they are, --cursor with the events since then: give only one.", ctx
        )
    if chosen["until_final"] and no_follow:
        raise click.UsageError("--until-final waits for the jobs to end, --no-follow does not: give only one.", ctx)
    if chosen["until_final"] and not chosen["job_ids"]:
        raise click.UsageError("--until-final needs the IDs of the jobs to wait for.", ctx)
    if exit_state and not chosen["until_final"]:
        raise click.UsageError("--exit-state needs --until-final.", ctx)


def _follow(ctx: click.Context, client: Client, output: Output, file: CursorFile | None, **arguments: Any) -> Exit:
    from jobstate_client.cli.terminal.watch_notes import ConnectionNotes, NamedJobs
    from jobstate_client.cli.terminal.watch_stream import ResponseEnd, watch_stream

    with ExitStack() as stack:
        printer: WatchPrinter
        if output.as_json:
            printer = JsonPrinter(output, snapshot=arguments["snapshot"])
        elif output.is_terminal and not output.console.is_dumb_terminal:
            from jobstate_client.cli.terminal.live_watch import LivePrinter

            printer = stack.enter_context(LivePrinter(output.console, follow=arguments["follow"]))
        else:
            printer = LinePrinter()
        show = getattr(printer, "note", note)
        connection = ConnectionNotes(server_of(ctx), show)
        follow = arguments["follow"] and not _LATE_TYPES.intersection(arguments["types"])
        named = NamedJobs(client, show, () if arguments["until_final"] else arguments["job_ids"], follow=follow)
        stream = stack.enter_context(watch_stream(client, on_outage=connection.connection_lost, **arguments))
        for item in stream:
            match item:
                case Event():
                    named.found(item.job)
                    printer.event(item, stream.cursor)
                case SnapshotJob(job):
                    named.found(job)
                    printer.job(job)
                case SnapshotStarted():
                    printer.snapshot_started()
                case Synced(cursor):
                    printer.synced(cursor)
                    named.look_up()
                case ResponseEnd(cursor):
                    connection.connected()
                    sys.stdout.flush()
                    if file is not None:
                        file.write(cursor)
                    if follow and named.is_over:
                        return Exit.REFUSED if named.unknown else Exit.DONE
    return Exit.DONE


def _final_states(client: Client, job_ids: Iterable[str]) -> Exit:
    """Whether all these jobs, which are final, are COMPLETED."""
    from jobstate_client.errors import JobNotFound

    code = Exit.DONE
    for job_id in job_ids:
        try:
            state = client.get(job_id).state.value
        except JobNotFound:
            state = "deleted"
        if state != State.COMPLETED:
            note(f"{job_id} is {state}")
            code = Exit.BAD_STATE
    return code
