"""Reports a failed command on standard error, for people or as JSON."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from jobstate_client import errors as e
from jobstate_client.cli.commands.options import CALLER, kept, server_of
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.error_messages import exit_code, hint, message
from jobstate_client.cli.terminal.json_output import line
from jobstate_client.views.text import safe


def option_of(field: str, command: click.Command) -> str:
    """The option or argument of this command that sets a field of the contract; empty if it has none."""
    options = {opt.lstrip("-").replace("-", "_"): opt for each in command.params for opt in each.opts}
    context = click.Context(command)
    arguments = [each for each in command.params if each.name in each.opts]
    named = {each.name: each.make_metavar(context).strip("[].") for each in arguments}
    parts = [part for part in re.split(r"[.\[\]]+", field) if part and not part.isdigit()]
    if parts == ["timeout"]:
        # --timeout is how long the call may take.
        return options.get("attempt_timeout", "")
    for part in (*parts[::-1][:1], *parts[:1]):
        for name in (part, part.removesuffix("s"), f"job_{part}", f"job_{part}s"):
            if name in named:
                return named[name]
            if name in options:
                return options[name]
    return ""


_NAMES = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|^[a-z]+(?= must )")
"""What may be the name of a field in a text: a word with an underscore, or the first one of "cost must be a number"."""


def with_options(text: str, command: click.Command) -> str:
    """The text with the options of this command in place of the fields that it names."""
    return _NAMES.sub(lambda found: option_of(found[0], command) or found[0], text)


def _told(error: e.JobStateError, server: str, command: click.Command) -> str:
    """The message, with options in place of fields."""
    text, field = message(error, server), error.metadata.get("field", "")
    _, colon, problem = text.partition(": ")
    if field and colon:
        return f"{option_of(field, command) or field}: {with_options(problem, command)}"
    return with_options(text, command)


def report(error: e.JobStateError, ctx: click.Context) -> Exit:
    """Report a failed call. Returns the exit code."""
    at: click.Context = ctx.meta.get(CALLER, ctx)
    server = server_of(ctx)
    advice = hint(error, at.command_path)
    violations = [(option_of(field, at.command), field, problem) for field, problem in error.violations]
    if kept(ctx, "json"):
        document = {
            "reason": error.reason or None,
            "code": None if error.code is None else error.code.name,
            "message": message(error, server),
            "metadata": error.metadata,
            "violations": [
                {"field": field, "option": option or None, "description": problem}
                for option, field, problem in violations
            ],
            "retry_after": None if error.retry_after is None else error.retry_after.total_seconds(),
            "request_id": error.request_id or None,
            "hint": advice or None,
        }
        print(line({"error": document}), file=sys.stderr)
        return exit_code(error)
    kind = f"{error.reason}: " if error.reason else ""
    if len(violations) == 1:
        ((option, field, problem),) = violations
        print(f"jobstate: {kind}{safe(option or field)}: {safe(with_options(problem, at.command))}", file=sys.stderr)
    else:
        print(f"jobstate: {kind}{safe(_told(error, server, at.command))}", file=sys.stderr)
        for option, field, problem in violations:
            print(f"  {safe(option or field)}: {safe(with_options(problem, at.command))}", file=sys.stderr)
    if advice:
        print(f"  {safe(advice)}", file=sys.stderr)
    return exit_code(error)


def report_usage(message: str, hint: str, *, as_json: bool) -> Exit:
    """Report what is wrong with the command line. Returns the exit code."""
    if as_json:
        document: dict[str, Any] = {"reason": None, "code": None, "message": message, "metadata": {}, "violations": []}
        document |= {"retry_after": None, "request_id": None, "hint": hint or None}
        print(line({"error": document}), file=sys.stderr)
    else:
        print(f"jobstate: {safe(message)}", file=sys.stderr)
        if hint:
            print(f"  {safe(hint)}", file=sys.stderr)
    return Exit.USAGE
