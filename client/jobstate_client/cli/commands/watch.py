"""``jobstate watch``: events as they happen, as lines; at a terminal with the running jobs below them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from jobstate_client.cli.commands.completion import complete_job_ids
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.cursor_file import CursorFile
from jobstate_client.cli.commands.options import PATH, SPAN, common, kept, server_of
from jobstate_client.cli.commands.queries import job_type_option
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.output import Output, note
from jobstate_client.core.states import EventType, State
from jobstate_client.core.values import Event, Job, SnapshotJob, SnapshotStarted, Synced
from jobstate_client.views.summaries import change_summary, event_summary, kind
from jobstate_client.views.text import exact, safe

if TYPE_CHECKING:
    from jobstate_client.errors import JobStateError
    from jobstate_client.sync.client import Client

IDS_LOOKED_UP_MAX = 20
"""Jobs named by ID that are looked up, to tell that one is not there. Who names more has them from a program."""

EVENT_TYPES = [type_.value for type_ in EventType if type_ is not EventType.UNKNOWN]


class WatchPrinter(Protocol):
    """How the items of a watch are shown."""

    def event(self, event: Event, cursor: str) -> None:
        """An event."""

    def job(self, job: Job) -> None:
        """A job of the snapshot."""

    def snapshot_started(self) -> None:
        """The jobs of a snapshot follow, perhaps for a second time."""

    def synced(self, cursor: str) -> None:
        """Everything up to now has been told."""


class Lines:
    """A line for each, for pipes and files."""

    def event(self, event: Event, cursor: str) -> None:
        """An event."""
        name = safe(kind(event))
        told = f"{exact(event.time)}  {name:<18}  {safe(event.job.id)}  {safe(event.job.job_type)}"
        sys.stdout.write(f"{told}  {safe(event_summary(event))}".rstrip() + "\n")

    def job(self, job: Job) -> None:
        """A job of the snapshot."""
        told = f"{exact(job.update_time) if job.update_time else '':<27}  {'is ' + job.state.value:<18}"
        sys.stdout.write(f"{told}  {safe(job.id)}  {safe(job.job_type)}  {safe(change_summary(job))}".rstrip() + "\n")

    def snapshot_started(self) -> None:
        """Nothing to tell people."""

    def synced(self, cursor: str) -> None:
        """Nothing to tell people."""


class JsonPrinter:
    """A JSON document on a line for each."""

    def __init__(self, output: Output, *, snapshot: bool) -> None:
        self._output = output
        self._snapshot = snapshot

    def event(self, event: Event, cursor: str) -> None:
        """An event."""
        self._output.document({"kind": "event", "cursor": cursor or None, "event": event})

    def job(self, job: Job) -> None:
        """A job of the snapshot."""
        self._output.document({"kind": "snapshot_job", "job": job})

    def snapshot_started(self) -> None:
        """Forget the jobs you hold."""
        self._output.document({"kind": "snapshot_started"})

    def synced(self, cursor: str) -> None:
        """The snapshot is complete."""
        if self._snapshot:
            self._output.document({"kind": "synced", "cursor": cursor})


class Outages:
    """Tells people, once for each, that the server is away, and that it is back."""

    def __init__(self, server: str, tell: Callable[[str], None] = note) -> None:
        self._server = server
        self._tell = tell
        self._was_there = False
        self._is_away = False

    def broken(self, error: JobStateError) -> None:
        """The watch broke off, or never began."""
        if not self._is_away:
            self._is_away = True
            from jobstate_client.cli.terminal.error_messages import message

            why = message(error, self._server)
            if self._was_there:
                self._tell(f"{why}; the watch goes on when it is back")
            else:
                self._tell(f"{why}; trying again")

    def answered(self) -> None:
        """The server answered."""
        self._was_there = True
        if self._is_away:
            self._is_away = False
            self._tell(f"{self._server} is there")


class MissingJobs:
    """Tells people, once, which of the jobs that they named are not there: nothing may ever come of those."""

    def __init__(self, client: Client, tell: Callable[[str], None], job_ids: Iterable[str] = ()) -> None:
        self._client = client
        self._tell = tell
        self._wanted = dict.fromkeys(job_ids)
        if len(self._wanted) > IDS_LOOKED_UP_MAX:
            self._wanted.clear()

    def found(self, job_id: str) -> None:
        """Something of this job has come."""
        self._wanted.pop(job_id, None)

    def up(self, *, follow: bool) -> None:
        """Look up those of which nothing has come."""
        from jobstate_client.errors import JobNotFound, JobStateError

        for job_id in self._wanted:
            try:
                self._client.get(job_id)
            except JobNotFound:
                told = f"there is no job {job_id!r}"
                self._tell(told + ("; waiting for one to be created" if follow else ""))
            except JobStateError:
                # The watch itself tells what is wrong with the server.
                break
        self._wanted.clear()


@click.command(short_help="Follow events as they happen.")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_job_ids)
@job_type_option
@click.option("--source-id", "source_ids", multiple=True, metavar="TEXT", help="Only of this source; may be repeated.")
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice(EVENT_TYPES, case_sensitive=False),
    help="Only events of this type; may be repeated.",
)
@click.option("--from-earliest", is_flag=True, help="Begin at the oldest event kept, not now.")
@click.option("--cursor", default="", metavar="TEXT", help="Begin after this point, where an earlier watch was.")
@click.option(
    "--cursor-file",
    type=PATH,
    metavar="FILE",
    help="Begin after the cursor in FILE, if there is one, and keep it there after each response.",
)
@click.option(
    "--snapshot",
    is_flag=True,
    help="Tell the matching jobs as they are first. Not beside --cursor; with --cursor-file only while that is empty.",
)
@click.option("--no-follow", is_flag=True, help="End when everything up to now has been told.")
@click.option("--until-final", is_flag=True, help="End when all the jobs named by ID are final.")
@click.option(
    "--exit-state",
    is_flag=True,
    help=f"With --until-final: exit with {Exit.BAD_NEWS.value} unless all of them are COMPLETED.",
)
@click.option("--latest-progress", is_flag=True, help="Leave out progress that later progress replaces.")
@click.option("--heartbeat-interval", type=SPAN, help="Silence after which the server gives a sign. [default: 30s]")
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

    The watch resumes by itself when the server restarts, without missing or repeating an event.
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
            _follow(ctx, client, output, file, follow=not no_follow, **chosen)
        except Exception:
            sys.stdout.flush()
            raise
        return _judge(client, chosen["job_ids"]) if exit_state else Exit.DONE


def _check(
    ctx: click.Context,
    cursor_file: Path | None,
    exit_state: bool,
    from_earliest: bool,
    no_follow: bool,
    chosen: dict[str, Any],
) -> None:
    if cursor_file is not None and chosen["cursor"]:
        raise click.UsageError("--cursor and --cursor-file both say where to begin: give one.", ctx)
    if chosen["cursor"] and from_earliest:
        raise click.UsageError("--cursor and --from-earliest both say where to begin: give one.", ctx)
    if chosen["snapshot"] and from_earliest:
        raise click.UsageError(
            "--snapshot tells the jobs as they are, --from-earliest how they came to be: give one.", ctx
        )
    if chosen["snapshot"] and chosen["cursor"]:
        raise click.UsageError(
            "--snapshot tells the jobs as they are now, --cursor what happened since then: give one.", ctx
        )
    if chosen["until_final"] and no_follow:
        raise click.UsageError("--until-final waits for the jobs to end, --no-follow does not wait: give one.", ctx)
    if chosen["until_final"] and not chosen["job_ids"]:
        raise click.UsageError("--until-final needs the jobs to wait for: name them by ID.", ctx)
    if exit_state and not chosen["until_final"]:
        raise click.UsageError("--exit-state needs --until-final.", ctx)


def _follow(ctx: click.Context, client: Client, output: Output, file: CursorFile | None, **arguments: Any) -> None:
    from jobstate_client.cli.terminal.watch_stream import ResponseEnd, follow

    with ExitStack() as stack:
        teller: WatchPrinter
        if output.as_json:
            teller = JsonPrinter(output, snapshot=arguments["snapshot"])
        elif output.is_terminal and not output.console.is_dumb_terminal:
            from jobstate_client.cli.terminal.live_watch import LivePrinter

            teller = stack.enter_context(LivePrinter(output.console, follow=arguments["follow"]))
        else:
            teller = Lines()
        tell = getattr(teller, "note", note)
        outages = Outages(server_of(ctx), tell)
        looking = MissingJobs(client, tell, **{} if arguments["until_final"] else {"job_ids": arguments["job_ids"]})
        stream = stack.enter_context(follow(client, on_broken=outages.broken, **arguments))
        for item in stream:
            match item:
                case Event():
                    looking.found(item.job.id)
                    teller.event(item, stream.cursor)
                case SnapshotJob(job):
                    looking.found(job.id)
                    teller.job(job)
                case SnapshotStarted():
                    teller.snapshot_started()
                case Synced(cursor):
                    teller.synced(cursor)
                    looking.up(follow=arguments["follow"])
                case ResponseEnd(cursor):
                    outages.answered()
                    sys.stdout.flush()
                    if file is not None:
                        file.keep(cursor)


def _judge(client: Client, job_ids: Iterable[str]) -> Exit:
    """Whether all these jobs, which are final, came to a good end."""
    from jobstate_client.errors import JobNotFound

    verdict = Exit.DONE
    for job_id in job_ids:
        try:
            state = client.get(job_id).state.value
        except JobNotFound:
            state = "deleted"
        if state != State.COMPLETED:
            note(f"{job_id} is {state}")
            verdict = Exit.BAD_NEWS
    return verdict
