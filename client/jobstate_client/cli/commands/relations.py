"""What commands know of needs and groups: options of create and list, what get shows, and close-group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobstate_client.cli.commands.changes import change
from jobstate_client.cli.commands.completion import complete_groups, complete_job_ids
from jobstate_client.cli.commands.options import INT64_MAX, common
from jobstate_client.cli.terminal.output import Cell, Column, Output, Row, state_cell
from jobstate_client.core.states import NeedCondition, OnExcess, WaitReason
from jobstate_client.views.summaries import members_note
from jobstate_client.views.text import counted

if TYPE_CHECKING:
    from jobstate_client.core.values import GroupMembers, Job, NeedStatus

F = TypeVar("F", bound=Callable[..., Any])

CONDITIONS = [each.value for each in NeedCondition if each is not NeedCondition.UNKNOWN]
ON_EXCESS = [each.value for each in OnExcess if each is not OnExcess.UNKNOWN]
WAIT_REASONS = [each.value for each in WaitReason if each is not WaitReason.UNKNOWN]
_BAR_WIDTH = 24

_NEED_COLUMNS = (
    Column("NEEDS", whole=True),
    Column("CONDITION", whole=True),
    Column("MET", whole=True),
    Column("STATE"),
)


def relations_of_new(command: F) -> F:
    """Add the options of ``create`` for needs and groups. ``relations_from`` turns them into arguments."""
    for option in reversed(
        (
            click.option(
                "--needs",
                multiple=True,
                metavar="ID[:CONDITION]",
                shell_complete=complete_job_ids,
                help=f"A job that must have ended before; may be repeated. CONDITION: {', '.join(CONDITIONS)}."
                " [default: COMPLETED]",
            ),
            click.option(
                "--group-id", default="", metavar="ID", shell_complete=complete_groups, help="The group that it joins."
            ),
            click.option(
                "--group", "is_group", is_flag=True, help="Make it a group, which ends when its members have."
            ),
            click.option(
                "--tolerated-failures",
                type=click.IntRange(-1, INT64_MAX),
                help="How many members of the group may fail or be cancelled; -1 is any number. [default: 0]",
            ),
            click.option(
                "--on-excess",
                type=click.Choice(ON_EXCESS, case_sensitive=False),
                help="What happens to the group's other members after that. [default: FINISH]",
            ),
        )
    ):
        command = option(command)
    return command


def relations_from(ctx: click.Context, fields: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``Client.create`` in place of these options."""
    from jobstate_client.core.values import GroupPolicy

    tolerated, on_excess = fields.pop("tolerated_failures"), fields.pop("on_excess")
    is_group = fields.pop("is_group")
    if not is_group and (tolerated is not None or on_excess is not None):
        raise click.UsageError("--tolerated-failures and --on-excess need --group.", ctx)
    fields["needs"] = tuple(map(_need, fields["needs"]))
    fields["group"] = GroupPolicy(tolerated or 0, on_excess or OnExcess.FINISH) if is_group else None
    return fields


def _need(text: str) -> Any:
    """A need as it is written. Ids may have colons too, so only the name of a condition after the last one counts."""
    from jobstate_client.core.values import Need

    job_id, colon, condition = text.rpartition(":")
    return Need(job_id, condition) if colon and condition.upper() in CONDITIONS else Need(text)


def check_related(ctx: click.Context, filters: dict[str, Any]) -> None:
    """Refuse filters of ``list`` that name more than one other job."""
    given = [option for name, option in _RELATED.items() if filters[name]]
    if len(given) > 1:
        message = f"{' and '.join(given)} each choose jobs by their relation to another: give only one."
        raise click.UsageError(message, ctx)


_RELATED = {"group": "--group-id", "needed_by": "--needed-by", "needs": "--needs"}


def relations_of_listed(command: F) -> F:
    """Add the filters of ``list`` for needs and groups."""
    a_job: dict[str, Any] = {"default": "", "metavar": "ID", "shell_complete": complete_job_ids}
    a_group = a_job | {"shell_complete": complete_groups}
    for option in reversed(
        (
            click.option("--group-id", "group", help="Only members of this group.", **a_group),
            click.option("--needed-by", help="Only jobs that this job needs.", **a_job),
            click.option("--needs", help="Only jobs that need this job.", **a_job),
            click.option(
                "--wait-reason",
                "wait_reasons",
                multiple=True,
                type=click.Choice(WAIT_REASONS, case_sensitive=False),
                help="Only jobs that wait for this; may be repeated.",
            ),
        )
    ):
        command = option(command)
    return command


def progress_bar(group: Job) -> Cell:
    """The progress of a group, drawn."""
    from jobstate_client.cli.terminal.layout import bar

    drawn = "".join(part.text for part in bar(group.progress, _BAR_WIDTH, ""))
    return Cell(f"{drawn} {group.progress} %", state_cell(group.state).style)


def relation_fields(job: Job) -> Iterator[tuple[str, str]]:
    """What ``get`` shows of the groups of a job."""
    yield "group", job.group_id
    if job.members is not None:
        yield "members", members_note(job.members)
        yield "members used", _usage(job.members)
        yield "closed", "yes" if job.members.closed else "no, it takes more members"
    if job.group is not None:
        tolerated = job.group.tolerated_failures
        yield "tolerates", ("any number of failures" if tolerated < 0 else f"{tolerated:,} failures")
        yield "on excess", str(job.group.on_excess)


def _usage(members: GroupMembers) -> str:
    """What the members have used, if they have."""
    if not (members.tokens or members.cost):
        return ""
    return f"{counted(members.tokens, 'token')}, cost {members.cost:,.4f}"


def write_needs(output: Output, needs: tuple[NeedStatus, ...]) -> None:
    """Show what a job needs, and what has become of it."""
    output.text("")
    output.table(_NEED_COLUMNS, map(_need_row, needs))


def _need_row(need: NeedStatus) -> Row:
    state = "" if need.state is None else state_cell(need.state)
    return need.job_id, need.condition.value, "yes" if need.met else "no", state


@click.command("close-group", short_help="Say that a group has all its members.")
@click.argument("job_id", metavar="ID", shell_complete=complete_groups)
@common
@click.pass_context
def close_group(ctx: click.Context, /, job_id: str) -> None:
    """Say that a group has all its members: it ends once all of them have."""
    change(ctx, "close_group", job_id)
