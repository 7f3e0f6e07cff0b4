"""``jobstate types``: the policies in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import common, kept
from jobstate_client.cli.terminal.output import Cell, Column, Output, Row
from jobstate_client.core.states import LaneFrom
from jobstate_client.views.lanes import rate_text
from jobstate_client.views.text import count, span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import JobType


@click.command(short_help="List the job types with retries, timeouts and limits.")
@common
@click.pass_context
def types(ctx: click.Context) -> None:
    """List the job types in the server's settings, with their retries and timeouts, and then their limits."""
    with connected(ctx) as client:
        policies = client.job_types()
    output = Output(as_json=bool(kept(ctx, "json")))
    if output.as_json:
        output.document({"job_types": policies.types, "strict_job_types": policies.strict})
        return
    output.table(_TYPE_COLUMNS, [_type_row(each) for each in policies.types])
    limited = [each for each in policies.types if _has_limits(each)]
    if limited:
        output.text("")
        output.table(_LIMIT_COLUMNS, [_limit_row(each) for each in limited])
        output.text("")
    others = "is refused" if policies.strict else "follows the policy named default"
    output.text(Cell(f"A job type that is not listed {others}.", "dim"))


_TYPE_NUMBERS = {"RETRIES": 0, "TIMEOUT": 0, "BASE": 0, "MAX": 0, "JITTER": 2, "STALE": 0, "LEASE": 0, "STEP": 1}
"""The columns with numbers, and which of them are left out first."""

_TYPE_COLUMNS = (
    Column("JOB TYPE", whole=True),
    *(Column(title, right=True, whole=True, rank=rank) for title, rank in _TYPE_NUMBERS.items()),
    Column("AUTO RETRY", whole=True),
)


def _type_row(each: JobType) -> Row:
    return (
        each.name,
        str(each.max_retries),
        span(each.timeout) or "none",
        span(each.base_delay) or "0s",
        span(each.max_delay) or "0s",
        f"{each.jitter:.0%}",
        span(each.stale_threshold),
        span(each.lease),
        "" if each.priority_step is None else span(each.priority_step),
        "yes" if each.auto_retry else "no",
    )


_LIMIT_COLUMNS = (
    Column("LIMITS OF", whole=True),
    Column("CONCURRENCY", right=True, whole=True),
    Column("RATE", right=True, whole=True),
    Column("BURST", right=True, whole=True, rank=2),
    Column("LANE FROM", whole=True, rank=3),
    Column("PER LANE", right=True, whole=True),
    Column("RATE", right=True, whole=True),
    Column("BURST", right=True, whole=True, rank=2),
    Column("LANE HOLDS", whole=True, rank=1),
)


def _has_limits(each: JobType) -> bool:
    return bool(each.concurrency or each.rate or each.lane_concurrency or each.lane_rate or _names_lanes(each))


def _names_lanes(each: JobType) -> bool:
    return each.lane_from not in (LaneFrom.UNKNOWN, LaneFrom.NONE)


def _limit_row(each: JobType) -> Row:
    rate, lane_rate = each.rate, each.lane_rate
    return (
        each.name,
        count(each.concurrency) if each.concurrency else "",
        rate_text(rate),
        "" if rate is None else count(rate.burst),
        each.lane_from.value if _names_lanes(each) else "",
        count(each.lane_concurrency) if each.lane_concurrency else "",
        rate_text(lane_rate),
        "" if lane_rate is None else count(lane_rate.burst),
        each.lane_holds.value if each.lane_concurrency else "",
    )
