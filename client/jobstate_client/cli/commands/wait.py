"""``jobstate wait``: returns when jobs are final."""

from __future__ import annotations

from datetime import timedelta

import click

from jobstate_client.cli.commands.completion import complete_job_ids
from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import SPAN, common, kept
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.output import Output, state_cell
from jobstate_client.core.states import State


@click.command(short_help="Wait until jobs are final.")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_job_ids)
@click.option("--patience", type=SPAN, help="How long the server may be away. [default: for ever]")
@common
@click.pass_context
def wait(ctx: click.Context, /, job_ids: tuple[str, ...], *, patience: timedelta | None) -> Exit:
    """Wait until all these jobs are final, and say how each ended, in the order given.

    Exits with 0 if all of them are COMPLETED, and with 4 if not.
    """
    from jobstate_client.errors import JobNotFound

    wanted = list(dict.fromkeys(job_ids))
    output = Output(as_json=bool(kept(ctx, "json")))
    code = Exit.DONE
    with connected(ctx) as client:
        with client.watch(
            job_ids=wanted, types=["COMPLETED"], until_final=True, latest_progress=True, patience=patience
        ) as events:
            for _ in events:
                pass
        for job_id in wanted:
            try:
                state = client.get(job_id).state
            except JobNotFound:
                # It ended, and was deleted since.
                state = None
            if state is not State.COMPLETED:
                code = Exit.BAD_STATE
            if output.as_json:
                output.document({"id": job_id, "state": None if state is None else state.value})
            else:
                output.text(f"{job_id} is ", "deleted" if state is None else state_cell(state))
    return code
