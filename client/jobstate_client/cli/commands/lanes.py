"""What holds whole job types and lanes back: pause, unpause, lanes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobstate_client.cli.commands.completion import complete_job_types, complete_lanes
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import common, kept
from jobstate_client.cli.terminal.output import Cell, Column, Output, Row, note
from jobstate_client.views.lanes import lane_name, lane_note
from jobstate_client.views.text import count, counted, short_span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import JobTypes, Lane
    from jobstate_client.sync.client import Client

F = TypeVar("F", bound=Callable[..., Any])

TERMINAL_LIMIT = 50
"""How many lanes are listed on a terminal unless --limit says otherwise."""

PAGE_SIZE_MAX = 1_000

job_type_argument = click.argument("job_type", shell_complete=complete_job_types)
lane_option = click.option(
    "--lane", metavar="TEXT", shell_complete=complete_lanes, help="Only this lane of it. [default: the whole type]"
)


def _name(job_type: str, lane: str | None) -> str:
    return job_type if lane is None else f"lane '{lane}' of {job_type}"


@click.command(short_help="Stop handing out the jobs of a type or lane.")
@job_type_argument
@lane_option
@click.option("--reason", default="", metavar="TEXT", help="Reason, for people.")
@common
@click.pass_context
def pause(ctx: click.Context, /, job_type: str, lane: str | None, reason: str) -> None:
    """Stop handing out the jobs of JOB_TYPE, or those of one of its lanes, at all servers until unpause.

    Attempts that workers have already go on, and a job can still be begun by hand, with start.
    """
    with connected(ctx) as client:
        paused = client.pause(job_type, lane=lane, reason=reason)
    output = Output(as_json=bool(kept(ctx, "json")))
    if output.as_json:
        output.document(paused)
        return
    ready = counted(paused.ready, "job")
    output.text(f"{_name(job_type, lane)} is paused: {ready} ready, {count(paused.running)} running")


@click.command(short_help="Go on handing out the jobs of a type or lane.")
@job_type_argument
@lane_option
@common
@click.pass_context
def unpause(ctx: click.Context, /, job_type: str, lane: str | None) -> None:
    """Go on handing out the jobs of JOB_TYPE, or those of one of its lanes.

    Lanes that were paused by themselves stay paused when their type goes on.
    """
    with connected(ctx) as client:
        unpaused = client.unpause(job_type, lane=lane)
    output = Output(as_json=bool(kept(ctx, "json")))
    if output.as_json:
        output.document(unpaused)
    else:
        output.text(f"{_name(job_type, lane)} is not paused: {counted(unpaused.ready, 'job')} ready")


@click.command(short_help="List the lanes of a job type.")
@job_type_argument
@click.option(
    "--limit",
    type=click.IntRange(0),
    help=f"List at most so many lanes; 0 lists all. [default: {TERMINAL_LIMIT} on a terminal, else all]",
)
@common
@click.pass_context
def lanes(ctx: click.Context, /, job_type: str, *, limit: int | None) -> None:
    """List the lanes of JOB_TYPE that have jobs ready or running, or are paused or held, in the order of their turns.

    The lanes that cannot have a turn now come last, by name.
    """
    output = Output(as_json=bool(kept(ctx, "json")))
    # Without --limit, a note says when there are more lanes; for that, one more is requested.
    is_cut = limit is None and output.is_terminal and not output.as_json
    limit = TERMINAL_LIMIT if is_cut else limit or 0
    with connected(ctx) as client:
        found = client.lanes(job_type, page_size=min(limit + is_cut, PAGE_SIZE_MAX) if limit else PAGE_SIZE_MAX)
        shown = islice(found, limit) if limit else found
        if output.as_json:
            for lane in shown:
                output.document(lane)
            return
        lanes_max = _lane_concurrency(client.job_types(), job_type)
        now = datetime.now(UTC)
        output.table(_COLUMNS, (_row(lane, lanes_max, now) for lane in shown))
        if is_cut and next(found, None) is not None:
            note(f"there are more than these {limit}; --limit 0 lists all")
        _write_pause(output, client, job_type)


def _write_pause(output: Output, client: Client, job_type: str) -> None:
    """What a paused type hands out does not depend on its lanes."""
    status = client.type_status(job_type)
    if status.paused:
        because = f": {status.pause_reason}" if status.pause_reason else ""
        output.text(Cell(f"The whole type {job_type} is paused{because}.", "bold"))


def _lane_concurrency(policies: JobTypes, job_type: str) -> int:
    """How many attempts of each lane may run; 0 is without limit."""
    by_name = {each.name: each.lane_concurrency for each in policies.types}
    return by_name.get(job_type, by_name.get("default", 0))


_COLUMNS = (
    Column("LANE"),
    Column("READY", right=True, whole=True),
    Column("RUNNING", right=True, whole=True),
    Column("OLDEST", right=True, whole=True, rank=1),
    Column("TURN", right=True, whole=True, rank=2),
    Column("NOTE"),
)


def _row(lane: Lane, lanes_max: int, now: datetime) -> Row:
    return (
        lane_name(lane.lane),
        count(lane.ready),
        f"{count(lane.running)} of {count(lanes_max)}" if lanes_max else count(lane.running),
        "" if lane.oldest_wait is None else short_span(lane.oldest_wait.total_seconds()),
        "" if lane.turn_time is None else f"{short_span((now - lane.turn_time).total_seconds())} ago",
        lane_note(lane, lanes_max, now),
    )
