"""``jobstate maintenance``: run a task of the server now, or show its tasks and the health of the jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from jobstate_client.cli.commands.connection import connected, long_timeout
from jobstate_client.cli.commands.options import SPAN, common, kept
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.output import Cell, Column, Output, Row
from jobstate_client.core.states import HealthState
from jobstate_client.views.text import count, counted, instant, span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Health, Task, TaskResult

dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be done.")


@click.group(short_help="Run a task of the server now, or check health.")
@common
def maintenance() -> None:
    """Run a periodic task of the server now, or check the health of the jobs."""


def _output(ctx: click.Context) -> Output:
    return Output(as_json=bool(kept(ctx, "json")))


def _print_result(output: Output, report: TaskResult, did: str, would: str, *, dry_run: bool) -> None:
    if output.as_json:
        output.document(report)
        return
    output.text(f"{counted(report.count, 'job')} {would if dry_run else did}.")
    for job_id in report.job_ids:
        output.text(f"  {job_id}")
    if report.count > len(report.job_ids):
        output.text(Cell(f"  and {count(report.count - len(report.job_ids))} more", "dim"))


@maintenance.command("check-stale", short_help="Fail the attempts that stopped reporting.")
@dry_run_option
@common
@click.pass_context
def check_stale(ctx: click.Context, /, *, dry_run: bool) -> None:
    """Fail the attempts that have not reported for longer than their type allows."""
    with connected(ctx) as client:
        report = client.check_stale(dry_run=dry_run, **long_timeout(ctx))
    _print_result(_output(ctx), report, "failed as stale", "would be failed as stale", dry_run=dry_run)


@maintenance.command("retry-failed", short_help="Retry what stays in FAILED, and do what is overdue.")
@dry_run_option
@common
@click.pass_context
def retry_failed(ctx: click.Context, /, *, dry_run: bool) -> None:
    """Retry the jobs that stay in FAILED although their type retries automatically, and do what is overdue."""
    with connected(ctx) as client:
        report = client.retry_failed(dry_run=dry_run, **long_timeout(ctx))
    _print_result(_output(ctx), report, "changed", "would be changed", dry_run=dry_run)


@maintenance.command(short_help="Delete jobs and events past their retention.")
@click.option(
    "--older-than",
    type=SPAN,
    help="Delete jobs final for this long; at least 1h. [default: the server's retention]",
)
@click.option("--force", is_flag=True, help="Allow --older-than below 1h, down to 0, which deletes every final job.")
@dry_run_option
@common
@click.pass_context
def cleanup(ctx: click.Context, /, *, older_than: timedelta | None, force: bool, dry_run: bool) -> None:
    """Delete jobs and events that are past their retention."""
    with connected(ctx) as client:
        report = client.cleanup(older_than=older_than, force=force, dry_run=dry_run, **long_timeout(ctx))
    output = _output(ctx)
    if output.as_json:
        output.document(report)
    else:
        did = "would be deleted" if dry_run else "deleted"
        output.text(f"{counted(report.jobs, 'job')} and {counted(report.events, 'event')} {did}.")


@maintenance.command("check-health", short_help="Check the health of the jobs.")
@click.option("--exit-state", is_flag=True, help=f"Exit with {Exit.BAD_STATE.value} unless the jobs are HEALTHY.")
@common
@click.pass_context
def check_health(ctx: click.Context, /, *, exit_state: bool) -> Exit:
    """Check the health of the jobs: what waits too long, what is overdue, how many fail."""
    with connected(ctx) as client:
        health = client.check_health()
    output = _output(ctx)
    if output.as_json:
        output.document(health)
    else:
        healthy = health.state is HealthState.HEALTHY
        output.text(Cell(health.state.value, "green" if healthy else "bold red"))
        for problem in health.problems:
            output.text(f"  {problem}")
        output.fields(_health_fields(health))
    return Exit.BAD_STATE if exit_state and health.state is not HealthState.HEALTHY else Exit.DONE


def _health_fields(health: Health) -> list[tuple[str, str | Cell]]:
    return [
        ("queued", count(health.queued)),
        ("oldest queued", span(health.oldest_queued_age)),
        ("oldest due retry", span(health.oldest_unclaimed_age)),
        ("processing", count(health.processing)),
        ("staying in FAILED", count(health.failed)),
        ("overdue", count(health.overdue)),
        ("failure rate", f"{health.failure_rate:.1%}"),
        ("waiting to be written", count(health.backlog)),
        ("commit p99", span(health.commit_latency_p99)),
        ("commits", count(health.commits)),
        ("commands", count(health.commands)),
    ]


@maintenance.command(short_help="List the server's periodic tasks.")
@common
@click.pass_context
def tasks(ctx: click.Context) -> None:
    """List the periodic tasks of the server and its recurring jobs: when each runs next, when it last ran, and the
    outcome."""
    with connected(ctx) as client:
        listed = client.tasks()
    output = _output(ctx)
    if output.as_json:
        output.document({"tasks": listed})
        return
    now = datetime.now(UTC)
    output.table(_TASK_COLUMNS, [_task_row(task, now) for task in listed])


_TASK_COLUMNS = (
    Column("TASK", whole=True),
    Column("SCHEDULE", whole=True),
    Column("NEXT", whole=True),
    Column("LAST", whole=True),
    Column("TOOK", right=True, whole=True),
    Column("OUTCOME"),
)


def _task_row(task: Task, now: datetime) -> Row:
    following: Any = "off" if task.next_run is None else f"in {span(task.next_run - now)}"
    in_zone = "" if task.time_zone in {"", "UTC"} else f" {task.time_zone}"
    return (
        task.name,
        task.schedule + in_zone,
        following,
        instant(task.last_run) or "never",
        span(task.last_duration),
        Cell(task.last_error, "red") if task.last_error else task.last_outcome,
    )
