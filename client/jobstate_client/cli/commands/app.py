"""The group of all commands, and how their errors become exit codes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

import click
from click.shell_completion import shell_complete

from jobstate_client.cli.commands.acquire import acquire
from jobstate_client.cli.commands.changes import complete, fail, progress, release, report_usage, start
from jobstate_client.cli.commands.completion import PROGRAM, VARIABLE, completion
from jobstate_client.cli.commands.create import create
from jobstate_client.cli.commands.erase import erase
from jobstate_client.cli.commands.explain import explain
from jobstate_client.cli.commands.job_types import types
from jobstate_client.cli.commands.lanes import lanes, pause, unpause
from jobstate_client.cli.commands.maintenance import maintenance
from jobstate_client.cli.commands.many import cancel, recreate, retry
from jobstate_client.cli.commands.options import common_to_all
from jobstate_client.cli.commands.queries import get, list_, stats
from jobstate_client.cli.commands.relations import close_group
from jobstate_client.cli.commands.run import run_
from jobstate_client.cli.commands.top import top
from jobstate_client.cli.commands.wait import wait
from jobstate_client.cli.commands.watch import watch
from jobstate_client.cli.exits import Exit
from jobstate_client.errors import JobStateError


class InOrder(click.Group):
    """A group whose help lists commands in the order of their use, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@common_to_all
@click.version_option(package_name="jobstate-grpc", prog_name=PROGRAM)
def cli() -> None:
    """Create, hand out, report, watch and maintain the jobs of a jobstate server.

    The options below may be given before the command or after it.

    \b
    Exit codes: 0 done · 1 the server refused · 2 wrong usage · 3 no server or no answer, try later
                4 with wait or --exit-state: the outcome is bad · 130 Ctrl-C
    """


for _command in (create, get, list_, explain, acquire, start, progress, complete, fail, release):
    cli.add_command(_command)
for _command in (run_, report_usage, retry, cancel, recreate, close_group, erase):
    cli.add_command(_command)
for _command in (watch, wait, top, stats, types, lanes, pause, unpause, maintenance, completion):
    cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command. Returns its exit code; errors have been written to standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            # A character that the locale cannot encode must not end a command.
            stream.reconfigure(errors="backslashreplace")
    try:
        if instruction := os.environ.get(VARIABLE):
            return shell_complete(cli, {}, PROGRAM, VARIABLE, instruction)
        code = _invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return code


def _invoke(arguments: Sequence[str]) -> int:
    try:
        for argument in arguments:
            _refuse_bytes(argument)
        with cli.make_context(PROGRAM, list(arguments)) as ctx:
            try:
                return int(cli.invoke(ctx) or Exit.DONE)
            except JobStateError as error:
                return _report(error, ctx)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.Abort:
        return Exit.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return Exit.USAGE
    except click.ClickException as error:
        at = error.ctx if isinstance(error, click.UsageError) else None
        hint = "" if at is None else f"See: {at.command_path} --help"
        return _report_usage(error.format_message(), hint, arguments)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        return _report_usage(str(error), "", arguments)


def _report(error: JobStateError, ctx: click.Context) -> int:
    from jobstate_client.cli.commands.error_report import report

    # What was written before the error comes first.
    sys.stdout.flush()
    return report(error, ctx)


def _report_usage(message: str, hint: str, arguments: Sequence[str]) -> int:
    from jobstate_client.cli.commands.error_report import report_usage

    # The mistake may come before --json, which has then not been parsed.
    options = takewhile(lambda argument: argument != "--", arguments)
    return report_usage(message, hint, as_json="--json" in options)


def _refuse_bytes(argument: str) -> None:
    try:
        argument.encode("utf-8")
    except UnicodeEncodeError:
        raise click.UsageError(f"the argument {argument!r} is not UTF-8") from None


def _discard_output() -> None:
    """Send the last flush of the interpreter to /dev/null: nobody reads the output any more."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
