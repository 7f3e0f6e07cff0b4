"""Shell completion of job types, job ids, groups, sources and lanes, which are looked up on the server."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import kept
from jobstate_client.views.text import safe

if TYPE_CHECKING:
    from jobstate_client.core.values import Job
    from jobstate_client.sync.client import Client

PROGRAM = "jobstate"
VARIABLE = "_JOBSTATE_COMPLETE"
"""Set by the completion scripts of the shells."""

LOOKUP_TIMEOUT_S = 1.0
"""How long completion waits for the server, unless --timeout is on the line. After that nothing is completed."""

JOB_IDS_MAX = 100
"""The newest jobs whose ids are completed. A longer list would not help."""

LANES_MAX = 100
"""Lanes that are completed. A longer list would not help."""

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} cut="" completion type value
    # Ids may contain colons, where bash splits words. The part before the last colon is already on the line.
    local word=${line##*[[:space:]=]}
    if [[ $COMP_WORDBREAKS == *:* && $word == *:* ]]; then
        cut=${word%%:*}:
    fi
    for completion in $(env COMP_LINE="$line" %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r type value <<< "$completion"
        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=("${value#"$cut"}")
        fi
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Bash, with the whole line passed in: bash splits words at colons, which ids may contain."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the word to complete, and that word."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        if not words or line[-1].isspace():
            return words, ""
        return words[:-1], words[-1]


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": FishComplete}
add_completion_class(Bash, "bash")


def complete_job_types(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The job types in the server's settings and of its jobs."""

    def look_up(client: Client) -> Iterable[tuple[str, str]]:
        known = {each.name for each in client.job_types().types} | set(client.stats().job_types)
        return ((name, "") for name in sorted(known))

    return _completed(ctx, incomplete, look_up)


def complete_job_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of the newest jobs."""

    def look_up(client: Client) -> Iterable[tuple[str, str]]:
        return [(job.id, f"{job.job_type} {job.state}") for job in _newest(client)]

    return _completed(ctx, incomplete, look_up)


def complete_groups(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of the groups among the newest jobs, and of the groups that those are in."""

    def look_up(client: Client) -> Iterable[tuple[str, str]]:
        found: dict[str, str] = {}
        for job in _newest(client):
            if job.group is not None:
                found[job.id] = f"{job.job_type} {job.state}"
            elif job.group_id:
                found.setdefault(job.group_id, "")
        return found.items()

    return _completed(ctx, incomplete, look_up)


def complete_sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The sources of the newest jobs."""

    def look_up(client: Client) -> Iterable[tuple[str, str]]:
        found = dict.fromkeys(job.source_id for job in _newest(client) if job.source_id)
        return [(source, "") for source in found if _is_plain(source)]

    return _completed(ctx, incomplete, look_up)


def _newest(client: Client) -> Iterator[Job]:
    return islice(client.list(page_size=JOB_IDS_MAX), JOB_IDS_MAX)


def _is_plain(text: str) -> bool:
    """Whether it may stand on the line without quotes: the shells put what is completed there as it is."""
    return shlex.quote(text) == text


def complete_lanes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The lanes of the job type that is on the line already."""
    # While --lane has no value, click has left the arguments where they are.
    job_type = ctx.params.get("job_type") or next(iter(ctx.args), "")
    if not job_type:
        return []

    def look_up(client: Client) -> Iterable[tuple[str, str]]:
        some = islice(client.lanes(job_type, page_size=LANES_MAX), LANES_MAX)
        return [(each.lane, f"{each.ready} ready, {each.running} running") for each in some if _is_plain(each.lane)]

    return _completed(ctx, incomplete, look_up)


def _completed(
    ctx: click.Context, incomplete: str, look_up: Callable[[Client], Iterable[tuple[str, str]]]
) -> list[CompletionItem]:
    from jobstate_client.errors import JobStateError

    try:
        with connected(ctx, timeout=kept(ctx, "timeout") or LOOKUP_TIMEOUT_S) as client:
            return [
                CompletionItem(safe(value), help=safe(description) or None)
                for value, description in look_up(client)
                if value.startswith(incomplete)
            ]
    except (JobStateError, OSError, click.ClickException):
        return []


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> None:
    """Print the script with which SHELL completes commands, options, states, job types, ids, groups, sources and lanes.

    \b
    bash: jobstate completion bash > ~/.local/share/bash-completion/completions/jobstate
    zsh:  jobstate completion zsh > _jobstate, in a folder of $fpath
    fish: jobstate completion fish > ~/.config/fish/completions/jobstate.fish
    """
    source = SHELLS[shell](ctx.find_root().command, {}, PROGRAM, VARIABLE).source()
    click.echo(source)
