"""``jobstate explain``: why nobody works on a job."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from jobstate_client.cli.commands.completion import complete_job_ids
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import common, kept
from jobstate_client.cli.terminal.output import Output, state_cell
from jobstate_client.core.states import HoldReason
from jobstate_client.views.phase import Phase, phase_of
from jobstate_client.views.summaries import change_summary
from jobstate_client.views.text import count, instant, span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Explanation, Hold
    from jobstate_client.core.values import Job

AHEAD_MAX = 10_000
"""Jobs and lanes that the server counts at most."""

ADVICE = {
    HoldReason.TIME: "`jobstate retry {job_id} --immediately` ends the wait",
    HoldReason.TYPE_PAUSED: "`jobstate unpause {job_type}` ends the pause",
    HoldReason.LANE_PAUSED: "`jobstate unpause {job_type} --lane {lane}` ends the pause",
    HoldReason.TYPE_CONCURRENCY: "it goes on when one ends; the limit is `concurrency` in the settings",
    HoldReason.LANE_CONCURRENCY: "it goes on when one ends; the limit is `lane_concurrency` in the settings",
    HoldReason.TYPE_RATE: "the limit is `rate` in the settings",
    HoldReason.LANE_RATE: "the limit is `lane_rate` in the settings",
    HoldReason.TURN: "add workers, or create such jobs with a higher --priority",
    HoldReason.NO_WORKER: "start workers, unless all are busy; by hand: `jobstate acquire {job_type}`",
    HoldReason.AWAITS_RETRY_CALL: "`jobstate retry {job_id}` or `jobstate cancel {job_id}`",
}
"""What to do about it."""


@click.command(short_help="Tell why nobody works on a job.")
@click.argument("job_id", metavar="ID", shell_complete=complete_job_ids)
@common
@click.pass_context
def explain(ctx: click.Context, /, job_id: str) -> None:
    """Tell why nobody works on a job: what holds it back, what to do about it, and when it is expected to begin.

    What is told about workers is about those that ask the server that answers.
    """
    output = Output(as_json=bool(kept(ctx, "json")))
    with connected(ctx) as client:
        explanation = client.explain(job_id)
        if output.as_json:
            output.document(explanation)
            return
        job = client.get(job_id)
    summary = change_summary(job)
    output.text(f"{job.id} is ", state_cell(job.state), f", {summary}" if summary else "")
    output.fields(_fields(explanation, job, datetime.now(UTC)))


def _fields(explanation: Explanation, job: Job, now: datetime) -> Iterator[tuple[str, str]]:
    for hold in explanation.holds:
        yield hold.reason.value, _hold(hold, job, now)
    if phase_of(job.state, claimed=job.claimed) is Phase.RUNNING:
        yield "worker", job.worker or "it gave no name"
    yield "lane", job.lane
    ahead = explanation.ahead_in_lane
    if ahead is not None:
        yield "jobs before it", _counted(ahead) + (" of its lane" if job.lane else "")
        yield "lanes before it", _counted(explanation.lanes_ahead) if explanation.lanes_ahead else ""
        yield "workers waiting", count(explanation.waiting_acquires)
    if explanation.expected_start_time is not None:
        yield "expected", _when(explanation.expected_start_time, now)


def _hold(hold: Hold, job: Job, now: datetime) -> str:
    when = f", {_when(hold.end_time, now)}" if hold.end_time is not None else ""
    advice = ADVICE.get(hold.reason, "").format(job_id=job.id, job_type=job.job_type, lane=shlex.quote(job.lane))
    return f"{hold.text}{when}" + (f"\n{advice}" if advice else "")


def _counted(number: int) -> str:
    return f"{count(number)}{' or more' if number >= AHEAD_MAX else ''}"


def _when(moment: datetime, now: datetime) -> str:
    """A moment to come, and how far off it is."""
    return f"{instant(moment)} (in {span(moment - now)})" if moment > now else f"{instant(moment)} (due)"
