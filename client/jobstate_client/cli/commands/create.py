"""The command create."""

from __future__ import annotations

from typing import Any

import click

from jobstate_client.cli.commands.changes import change, request_id
from jobstate_client.cli.commands.completion import complete_job_types, complete_lanes
from jobstate_client.cli.commands.options import DOCUMENT, INSTANT, INT32_MAX, SPAN, common, labels_option
from jobstate_client.cli.commands.relations import relations_from, relations_of_new
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.output import note
from jobstate_client.core.states import Priority, UniqueUntil

PRIORITIES = [each.value for each in Priority if each is not Priority.UNKNOWN]
_DISPATCH_FIELDS = ("priority", "delay", "not_before_time", "start_within", "unique_key", "unique_until", "lane")
"""What a server knows of a new job only if it hands out jobs."""

UNIQUE_UNTIL = [each.value for each in UniqueUntil if each is not UniqueUntil.UNKNOWN]


@click.command()
@click.argument("job_type", required=False, shell_complete=complete_job_types)
@click.option("--count", type=click.IntRange(1, INT32_MAX), help="Create so many, and write the id of each.")
@click.option(
    "--file",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Create a job for each line of FILE, a JSON object; - is standard input.",
)
@click.option("--id", default="", metavar="ID", help="Id of the new job. [default: chosen by the server]")
@click.option("--source-id", default="", metavar="TEXT", help="What the job works on, by your own name.")
@click.option("--metadata", type=DOCUMENT, help="Free data of the job: a JSON object, or @FILE.")
@click.option("--max-retries", type=click.IntRange(0, INT32_MAX), help="Number of retries. [default: the type's]")
@click.option(
    "--attempt-timeout", type=SPAN, help="How long one attempt may take; 0 is no limit. [default: the type's]"
)
@click.option(
    "--priority",
    type=click.Choice(PRIORITIES, case_sensitive=False),
    help="How soon it is handed out beside others of its type. [default: NORMAL]",
)
@click.option("--delay", type=SPAN, help="Nobody can begin it before so long has passed.")
@click.option("--not-before-time", type=INSTANT, help="Nobody can begin it before then, such as 2026-01-31T08:30:00Z.")
@click.option("--start-within", type=SPAN, help="Cancel it if nobody has begun it so long after it could be begun.")
@click.option(
    "--unique-key", default="", metavar="TEXT", help="While a job of JOB_TYPE has this key, that one is returned."
)
@click.option(
    "--unique-until",
    type=click.Choice(UNIQUE_UNTIL, case_sensitive=False),
    help="Until when it has its --unique-key. [default: FINAL]",
)
@click.option(
    "--lane",
    metavar="TEXT",
    shell_complete=complete_lanes,
    help="Whose turn it takes, such as a tenant. [default: as the type says]",
)
@labels_option("What it is found by, such as tenant=acme; may be repeated, 8 at most.")
@relations_of_new
@request_id
@common
@click.pass_context
def create(
    ctx: click.Context, /, job_type: str | None, count: int | None, file: str | None, request_id: str, **fields: Any
) -> Exit:
    """Create a job of JOB_TYPE. It is QUEUED until a worker begins it.

    With --count or --file it creates many, in batches of up to 1,000, and writes the id of each. A line of the file has
    the options by their names, such as {"job_type": "email", "source_id": "u1", "delay": "10m"}. What a line leaves out
    is as JOB_TYPE and the options say.
    """
    if count is None and file is None:
        if job_type is None:
            raise click.UsageError("Missing argument 'JOB_TYPE'.", ctx)
        return _create_one(ctx, job_type, request_id=request_id, **fields)
    _create_many(ctx, count, file, request_id, {"job_type": job_type, **fields})
    return Exit.DONE


def _create_many(
    ctx: click.Context, count: int | None, file: str | None, request_id: str, fields: dict[str, Any]
) -> None:
    from jobstate_client.cli.commands.create_many import Fields, Sending, jobs_in_lines
    from jobstate_client.core.values import NewJob

    if count is not None and file is not None:
        raise click.UsageError("--count repeats the options, --file has a job in each line: give only one.", ctx)
    if fields["id"]:
        raise click.UsageError("--id is for one job: leave it out, or set it in the lines of --file.", ctx)
    read = Fields(ctx)

    def job_of(line: dict[str, Any]) -> NewJob:
        given = fields | read.of(line)
        _check(ctx, given)
        if not given["job_type"]:
            raise click.UsageError("job_type is missing", ctx)
        return NewJob(**relations_from(ctx, given))

    if file is None:
        job = job_of({})
        Sending(ctx, "copy", request_id).send((number, job) for number in range(1, (count or 0) + 1))
        return
    try:
        with click.open_file(file, "rb") as lines:
            name = "standard input" if file == "-" else file
            if file != "-" and lines.seekable():
                # So that a mistake further down is found before anything is created.
                for _ in jobs_in_lines(lines, name, job_of):
                    pass
                lines.seek(0)
            Sending(ctx, "line", request_id).send(jobs_in_lines(lines, name, job_of))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise click.UsageError(f"cannot read {file}: {error.strerror}", ctx) from error


def _check(ctx: click.Context, fields: dict[str, Any]) -> None:
    if fields["delay"] is not None and fields["not_before_time"] is not None:
        raise click.UsageError("--delay and --not-before-time both set when it may begin: give only one.", ctx)
    if fields["unique_until"] is not None and not fields["unique_key"]:
        raise click.UsageError("--unique-until needs --unique-key.", ctx)


def _create_one(ctx: click.Context, job_type: str, **fields: Any) -> Exit:
    _check(ctx, fields)
    fields = relations_from(ctx, fields)
    job = change(ctx, "create", job_type, **fields)
    ignored = [name for name in _DISPATCH_FIELDS if fields[name]] if job.priority is Priority.UNKNOWN else []
    if fields["group"] is not None and job.group is None:
        ignored.append("group")
    if job.group_id != fields["group_id"] and not job.existing:
        ignored.append("group-id")
    if fields["labels"] and not job.labels and not job.existing:
        ignored.append("label")
    if not ignored:
        return Exit.DONE
    # An older server reads past fields that it does not know.
    options = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
    note(
        f"{job.id} was created without {options}: the server is too old for that. Cancel the job if it must not begin."
    )
    return Exit.USAGE
