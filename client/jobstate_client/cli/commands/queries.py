"""The commands that read: get, list, stats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobstate_client.cli.commands.changes import for_each, job_ids
from jobstate_client.cli.commands.completion import complete_job_types, complete_sources
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import MOMENT, common, kept, labels_option
from jobstate_client.cli.commands.relations import (
    check_related,
    progress_bar,
    relation_fields,
    relations_of_listed,
    write_needs,
)
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal import json_output
from jobstate_client.cli.terminal.output import Cell, Column, Output, Row, note, pretty, state_cell
from jobstate_client.cli.terminal.statistics import write_statistics
from jobstate_client.core.states import CancelCause, Priority, State, WaitReason
from jobstate_client.views.phase import Phase, phase_of
from jobstate_client.views.summaries import expire_time, job_note, releases, waiting_time
from jobstate_client.views.text import count, counted, instant, short_span, span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Attempt, TypeStats
    from jobstate_client.core.values import Job, NeedStatus
    from jobstate_client.sync.client import Client

TERMINAL_LIMIT = 50
"""Jobs listed on a terminal unless --limit is given: about as many as anybody reads."""

PAGE_SIZE_MAX = 1_000
"""The largest page of the contract."""

F = TypeVar("F", bound=Callable[..., Any])

_FORMS = ["table", "wide", "ids"]

STATES = [state.value for state in State if state is not State.UNKNOWN]

state_option = click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES, case_sensitive=False),
    help="Only jobs in this state; may be repeated.",
)
job_type_option = click.option(
    "--job-type",
    "job_types",
    multiple=True,
    metavar="JOB_TYPE",
    shell_complete=complete_job_types,
    help="Only of this job type; may be repeated.",
)


@click.command()
@job_ids
@click.option("--include-attempts", is_flag=True, help="Also show its ended attempts.")
@click.option("--include-needs", is_flag=True, help="Also show what it needs.")
@common
@click.pass_context
def get(ctx: click.Context, /, job_ids: tuple[str, ...], *, include_attempts: bool, include_needs: bool) -> Exit:
    """Show everything about a job, or about several one after another."""
    shown: list[str] = []

    def show(client: Client, job_id: str) -> None:
        _show_job(ctx, client, job_id, include_attempts, include_needs, is_first=not shown)
        shown.append(job_id)

    return for_each(ctx, job_ids, show)


def _show_job(
    ctx: click.Context, client: Client, job_id: str, include_attempts: bool, include_needs: bool, *, is_first: bool
) -> None:
    job = client.get(job_id)
    attempts: tuple[Attempt, ...] = client.attempts(job_id) if include_attempts else ()
    needs: tuple[NeedStatus, ...] = client.needs(job_id) if include_needs else ()
    # Attempts are numbered from 1.
    omitted = attempts[0].number - 1 if attempts else 0
    output = Output(as_json=bool(kept(ctx, "json")))
    if output.as_json:
        document = json_output.plain(job)
        document |= {"attempts": attempts, "attempts_omitted": omitted} if include_attempts else {}
        output.document(document | ({"needs": needs} if include_needs else {}))
        return
    if not is_first:
        output.text("")
    output.fields(_fields(job, is_drawn=output.is_terminal))
    if include_needs:
        write_needs(output, needs)
    if include_attempts:
        output.text("")
        output.table(_ATTEMPT_COLUMNS, [_attempt_row(attempt, job) for attempt in attempts])
        if omitted:
            output.text(f"{counted(omitted, 'older attempt')} not shown")


_CANCELLED_BY = {CancelCause.CALLER: "a caller"} | dict.fromkeys(
    (CancelCause.EXPIRED, CancelCause.NEED, CancelCause.GROUP), "the server"
)


def _was_delayed(job: Job) -> bool:
    """Whether the job, which waits for a worker or has got one, could not be begun from its creation on."""
    return job.wait_reason is not WaitReason.TIME and job.ready_time not in (None, job.create_time)


def _fields(job: Job, *, is_drawn: bool) -> Iterator[tuple[str, str | Cell]]:
    yield "id", job.id
    yield "job type", job.job_type
    yield "source", job.source_id
    yield "state", state_cell(job.state)
    # The message of a running job is current. Later it is only the last message.
    is_running = phase_of(job.state, claimed=job.claimed) is Phase.RUNNING
    if not is_running and job.state is not State.COMPLETED:
        yield "note", job_note(job)
    if job.members is not None and is_drawn:
        yield "progress", progress_bar(job)
    else:
        message = f", {job.progress_message}" if is_running and job.progress_message else ""
        yield "progress", f"{job.progress} %{message}"
    yield "last message", "" if is_running else job.progress_message
    yield "attempt", str(job.attempt) if job.attempt else ""
    yield "worker", job.worker
    yield "lease", span(job.lease)
    yield "retries", f"{job.retry_count} of {job.max_retries}"
    yield "releases", count(releases(job)) if releases(job) else ""
    yield "priority", job.priority.value if job.priority is not Priority.UNKNOWN else ""
    yield "lane", job.lane
    yield "unique key", job.unique_key
    yield "recreated from", job.recreated_from
    yield "labels", _labels(job)
    yield from relation_fields(job)
    yield from _times(job)
    yield "cancelled by", _CANCELLED_BY.get(job.cancel_cause, "")
    yield "cancelled for", job.cancel_cause_id
    yield "timeout", span(job.timeout) or "none"
    yield from _numbers(job)
    if job.last_error is not None:
        error = job.last_error
        text = ": ".join(part for part in (error.code, error.message) if part)
        yield "last error", f"of attempt {error.attempt}" + (f", {text}" if text else "")
        yield "error details", pretty(error.details)
    yield "metadata", pretty(job.metadata)
    yield "result", pretty(job.result)


def _labels(job: Job) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))


def _times(job: Job) -> Iterator[tuple[str, str]]:
    yield "created", instant(job.create_time)
    yield (
        "delayed until",
        instant(job.ready_time) if job.state is State.QUEUED and job.wait_reason is WaitReason.TIME else "",
    )
    yield "ready", instant(job.ready_time) if _was_delayed(job) else ""
    yield "expires", instant(expire_time(job))
    yield "started", instant(job.start_time)
    yield "claimed", instant(job.claim_time) if job.attempt > 1 else ""
    yield "waiting for", waiting_time(job)
    yield "waited", span(job.waited)
    yield "updated", instant(job.update_time)
    yield "next retry", instant(job.next_retry_time)
    yield "times out", instant(job.attempt_deadline)
    yield "completed", instant(job.complete_time)


def _numbers(job: Job) -> Iterator[tuple[str, str]]:
    yield "duration", span(job.duration) if job.duration else ""
    yield "tokens", count(job.estimated_tokens) if job.estimated_tokens else ""
    yield "cost", f"{job.estimated_cost:,.4f}" if job.estimated_cost else ""
    yield "results", count(job.result_count) if job.result_count else ""
    yield "version", str(job.version)


_ATTEMPT_COLUMNS = (
    Column("ATTEMPT", right=True, whole=True),
    Column("OUTCOME", whole=True),
    Column("STARTED", whole=True),
    Column("WAITED", right=True, whole=True),
    Column("TOOK", right=True, whole=True),
    Column("TOKENS", right=True, whole=True),
    Column("COST", right=True, whole=True),
    Column("WORKER"),
    Column("ERROR"),
)


def _attempt_row(attempt: Attempt, job: Job) -> Row:
    ready, claim, end = (
        attempt.start_time if attempt.number > 1 else job.create_time,
        attempt.claim_time,
        attempt.end_time,
    )
    # An attempt that nobody claimed was waiting all the time.
    waited = (claim or end) - ready if ready and (claim or end) else None  # type: ignore[operator]
    took = end - claim if end and claim else None
    error = attempt.error
    return (
        str(attempt.number),
        attempt.outcome.value,
        instant(attempt.start_time),
        span(waited),
        span(took),
        count(attempt.tokens),
        f"{attempt.cost:,.4f}",
        attempt.worker,
        ": ".join(part for part in (error.code, error.message) if part) if error else "",
    )


def found_by(command: F) -> F:
    """Add the filters by labels, workers, errors and ends."""
    for option in reversed(
        (
            labels_option("Only jobs with this label; may be repeated, then with all of them."),
            click.option("--worker", default="", metavar="TEXT", help="Only jobs that this worker has, or had last."),
            click.option("--error-code", default="", metavar="TEXT", help="Only jobs whose last error has this code."),
            click.option(
                "--completed-since",
                "--complete-time-from",
                "completed_from",
                type=MOMENT,
                help="Only jobs that ended then or later, those that ended last first; 2d is 2 days ago.",
            ),
            click.option(
                "--complete-time-to", "completed_before", type=MOMENT, help="Only jobs that ended before then."
            ),
        )
    ):
        command = option(command)
    return command


@click.command("list", short_help="List jobs by state, type, source and time.")
@state_option
@job_type_option
@click.option(
    "--source-id", default="", metavar="TEXT", shell_complete=complete_sources, help="Only jobs with this source_id."
)
@relations_of_listed
@found_by
@click.option("--create-time-from", "created_from", type=MOMENT, help="Only jobs created then or later; 2h is 2 h ago.")
@click.option("--create-time-to", "created_before", type=MOMENT, help="Only jobs created before then.")
@click.option("--oldest-first", is_flag=True, help="List the oldest first.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    help=f"List at most so many jobs; 0 lists all. [default: {TERMINAL_LIMIT} on a terminal, else all]",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(_FORMS),
    default="table",
    help="wide adds columns, ids writes only the ids. [default: table]",
)
@common
@click.pass_context
def list_(ctx: click.Context, /, *, limit: int | None, form: str, **filters: Any) -> None:
    """List the jobs that match every given filter, newest first."""
    check_related(ctx, filters)
    if form != "table" and kept(ctx, "json"):
        raise click.UsageError("--output chooses a form for people and shells, --json is another: give only one.", ctx)
    output = Output(as_json=bool(kept(ctx, "json")))
    # Without --limit, a note says when there are more jobs; for that, one more is requested.
    is_cut = limit is None and output.is_terminal and not output.as_json
    limit = TERMINAL_LIMIT if is_cut else limit or 0
    with connected(ctx) as client:
        jobs = client.list(**filters, page_size=min(limit + is_cut, PAGE_SIZE_MAX) if limit else PAGE_SIZE_MAX)
        shown = islice(jobs, limit) if limit else jobs
        running = State.PROCESSING in filters["states"] and form == "table"
        _write_jobs(output, shown, form, running=running)
        if is_cut and next(jobs, None) is not None:
            note(f"there are more than these {limit}; --limit 0 lists all")


def _write_jobs(output: Output, jobs: Iterable[Job], form: str, *, running: bool) -> None:
    now = datetime.now(UTC)
    if output.as_json:
        for job in jobs:
            output.document(job)
    elif form == "ids":
        for job in jobs:
            output.text(job.id)
    elif form == "wide":
        output.table(
            _WIDE_COLUMNS,
            ((*_job_row(job, now, running=False)[:-1], *_wide_cells(job), job_note(job, now)) for job in jobs),
        )
    else:
        columns = _JOB_COLUMNS[:-1] + _RUNNING_COLUMNS + _JOB_COLUMNS[-1:] if running else _JOB_COLUMNS
        output.table(columns, (_job_row(job, now, running=running) for job in jobs))


_JOB_COLUMNS = (
    Column("ID", whole=True),
    Column("JOB TYPE"),
    Column("STATE", whole=True),
    Column("DONE", right=True, whole=True, rank=1),
    Column("ATTEMPT", right=True, whole=True, rank=3),
    Column("AGE", right=True, whole=True, rank=2),
    Column("SOURCE", rank=4),
    Column("NOTE"),
)


_WIDE_COLUMNS = (
    *_JOB_COLUMNS[:-1],
    Column("WORKER", rank=5),
    Column("LANE", rank=6),
    Column("ENDED", whole=True, rank=7),
    Column("ERROR", rank=8),
    Column("LABELS", rank=9),
    _JOB_COLUMNS[-1],
)


def _wide_cells(job: Job) -> Row:
    error = "" if job.last_error is None else job.last_error.code
    return job.worker, job.lane, instant(job.complete_time), error, _labels(job)


_RUNNING_COLUMNS = (Column("RUNNING", right=True, whole=True), Column("WORKER"))
"""Also shown when jobs in PROCESSING are asked for."""


def _running_cells(job: Job, now: datetime) -> Row:
    if job.claim_time is None or phase_of(job.state, claimed=job.claimed) is not Phase.RUNNING:
        return "", ""
    return short_span((now - job.claim_time).total_seconds()), job.worker


def _job_row(job: Job, now: datetime, *, running: bool) -> Row:
    return (
        job.id,
        job.job_type,
        state_cell(job.state),
        f"{job.progress}%",
        str(job.attempt),
        short_span((now - job.create_time).total_seconds()) if job.create_time else "",
        job.source_id,
        *(_running_cells(job, now) if running else ()),
        job_note(job, now),
    )


@click.command(short_help="Show statistics of the jobs.")
@job_type_option
@common
@click.pass_context
def stats(ctx: click.Context, /, job_types: Iterable[str]) -> None:
    """Count the jobs that are stored now, and sum up all since the store was created."""
    with connected(ctx) as client:
        statistics = client.stats(list(job_types))
    output = Output(as_json=bool(kept(ctx, "json")))
    if output.as_json:
        output.document(
            {
                "job_types": {name: _sums(each) for name, each in statistics.job_types.items()},
                "total": _sums(statistics.total),
            }
        )
        return
    write_statistics(output, statistics)


def _sums(stats: TypeStats) -> dict[str, Any]:
    document: dict[str, Any] = json_output.plain(stats)
    return document | {
        "stored": json_output.stored(stats.stored),
        "waiting": json_output.waiting(stats.waiting),
    }
