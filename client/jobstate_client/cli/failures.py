"""What is said when a command fails: what happened, why, and what to do about it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

import click
import grpc

from jobstate_client import errors as e
from jobstate_client.cli.as_json import line
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.options import CALLER, kept, server_of
from jobstate_client.cli.text import safe

_HINTS: dict[type[e.JobStateError], str] = {
    e.UnknownJobType: "`jobstate types` lists the job types that this server takes.",
    e.InvalidField: "Correct what is named above; `{command} --help` says what is expected.",
    e.MessageTooLarge: "Send less at once.",
    e.JobNotFound: "Check the id with `jobstate list`. A job that ended long ago may have been deleted by cleanup.",
    e.JobExists: "`jobstate get {job_id}` shows the job that has this id; choose another --id for a new one.",
    e.TransitionNotAllowed: "Do not repeat it: go by the job's state. `jobstate get {job_id}` shows it.{possible}",
    e.RetryNotAllowed: "Do not repeat it. Create a new job if the work is still wanted.",
    e.AttemptSuperseded: "That attempt is over: stop its work and drop its results.",
    e.AttemptRequired: "Name the attempt that your own start was answered with: --attempt N.",
    e.RequestIdReused: "Take a new --request-id for a new call, or repeat the first one exactly.",
    e.CursorExpired: "Leave the cursor out and begin anew with --snapshot, or with --from-earliest and a gap.",
    e.CursorUnknown: "The cursor is of another store. Drop what was learnt from it, and begin anew with --snapshot.",
    e.StoreUnavailable: "The store does not answer. Look at the server's log; try again later.",
    e.TryLater: "Nothing is wrong with the command: try again later.",
    e.InternalError: "Tell who runs the server the call_id {call_id}: its log has the cause under it.",
    e.Unreachable: "Is it running there? Name another with --server HOST:PORT or JOBSTATE_SERVER.",
    e.DeadlineExceeded: "Try again, or give it longer with --timeout.",
    e.ClientClosed: "The command was ending already: give it again.",
    e.ClientForked: "This process is a copy of another one: run the command in a process of its own.",
}

_NEVER_BEGAN = (
    "Attempt {attempt} has not begun: the job is at attempt {current_attempt}. Write --attempt {current_attempt}."
)
_NOT_STARTED = "No attempt has begun: begin one with `jobstate start {job_id}`."
_UNKNOWN_CALL = "What answers there is no jobstate server, or one too old for this command. Check --server."

COMMANDS = {
    "start": "start",
    "claim": "start",
    "progress": "progress",
    "complete": "complete",
    "fail": "fail",
    "retry": "retry",
    "expedite": "retry --immediately",
    "cancel": "cancel",
}
"""The command for each step that a refusal may name as allowed."""

_UNCERTAIN = (e.TransportError, e.StoreUnavailable, e.InternalError)
"""After these it is unknown whether a change was made."""


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why no server was reached, found in gRPC's own words."""

    found: str
    """A regular expression."""
    told: str
    hint: str
    exit: Exit = Exit.USAGE


_CAUSES = (
    _Cause(
        "WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG",
        "what listens at {server} does not speak TLS",
        "Leave out --tls and the other options of TLS, or name a server that has a certificate.",
    ),
    _Cause(
        "CERTIFICATE_VERIFY_FAILED",
        "the certificate of {server} is not trusted",
        "Name the certificate to trust with --tls-root-certificates FILE.",
    ),
    _Cause(
        "Hostname Verification Check failed",
        "the certificate of {server} is for another name",
        "Give the name that is in the certificate with --tls-server-name NAME.",
    ),
    _Cause(
        "Failed to create security handshaker",
        "a certificate or key that was given cannot be used",
        "The files of the --tls options must be PEM, and the key must belong to the certificate.",
    ),
    _Cause(
        "Tls handshake failed",
        "{server} and this command do not agree on TLS",
        "Check the --tls options; a server may ask for --tls-certificate and --tls-private-key.",
    ),
    _Cause(
        "http1.x server|Failed parsing HTTP/2",
        "what listens at {server} does not speak gRPC",
        "Is that the port of a jobstate server? Name another with --server HOST:PORT.",
    ),
    _Cause(
        "Misformatted domain name",
        "{server} is no address",
        "Write --server HOST:PORT, such as 127.0.0.1:50051.",
    ),
    _Cause(
        "Domain name not found|address lookup failed",
        "the name in {server} cannot be resolved",
        "Check the name given by --server or JOBSTATE_SERVER.",
        Exit.LATER,
    ),
    _Cause(
        "Socket closed",
        "{server} closed the connection at once",
        "If the server has a certificate, give --tls; if it asks for one, --tls-certificate and --tls-private-key.",
        Exit.LATER,
    ),
    _Cause(
        "before receiving SETTINGS",
        "{server} accepts connections but does not answer",
        "The server is busy or paused, or something else listens there: try again later, or check --server.",
        Exit.LATER,
    ),
)


def _cause(error: e.JobStateError) -> _Cause | None:
    if not isinstance(error, e.Unreachable):
        return None
    return next((cause for cause in _CAUSES if re.search(cause.found, error.message)), None)


def exit_code(error: e.JobStateError) -> Exit:
    """The exit code of a failed call."""
    if cause := _cause(error):
        return cause.exit
    return Exit.LATER if isinstance(error, e.TryLater | e.Unreachable | e.DeadlineExceeded) else Exit.REFUSED


def hint(error: e.JobStateError, command: str = "jobstate COMMAND") -> str:
    """What to do about it; empty when there is nothing to say."""
    facts = {"call_id": "", "job_id": "JOB_ID", **error.metadata, "command": command, "possible": _possible(error)}
    found = _advice(error).format_map(facts)
    if error.request_id and isinstance(error, _UNCERTAIN) and not _cause(error):
        found += f" Whether the change was made is unknown: repeat the command with --request-id {error.request_id}."
    return found.strip()


def _possible(error: e.JobStateError) -> str:
    """The commands that the job allows now."""
    allowed = error.allowed if isinstance(error, e.TransitionNotAllowed) else ()
    commands = dict.fromkeys(COMMANDS[step] for step in allowed if step in COMMANDS)
    return f" What it allows now: {', '.join(f'`jobstate {each}`' for each in commands)}." if commands else ""


def _advice(error: e.JobStateError) -> str:
    if cause := _cause(error):
        return cause.hint
    if isinstance(error, e.AttemptSuperseded) and error.attempt > error.current_attempt:
        return _NEVER_BEGAN if error.current_attempt else _NOT_STARTED
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        return _UNKNOWN_CALL
    return next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), "")


def message(error: e.JobStateError, server: str) -> str:
    """What went wrong, for people: gRPC's own words are for programmers."""
    if cause := _cause(error):
        return cause.told.format(server=server)
    if isinstance(error, e.Unreachable):
        cause_told = error.message.rpartition(": ")[2].strip(")]")
        return f"no server answers at {server} ({cause_told})"
    if isinstance(error, e.DeadlineExceeded):
        return f"{server} gave no answer in time"
    return error.message


def option_of(field: str, command: click.Command) -> str:
    """What a field of the contract is called on the command line of this command; empty when it has nothing for it."""
    options = {opt.lstrip("-").replace("-", "_"): opt for each in command.params for opt in each.opts}
    named = {each.name: each.make_metavar(click.Context(command)) for each in command.params if each.name in each.opts}
    parts = [part for part in re.split(r"[.\[\]]+", field) if part and not part.isdigit()]
    if parts == ["timeout"]:
        # --timeout is how long the call may take.
        return options.get("attempt_timeout", "")
    for part in (*parts[::-1][:1], *parts[:1]):
        for name in (part, part.removesuffix("s"), f"job_{part}"):
            if name in named:
                return named[name]
            if name in options:
                return options[name]
    return ""


def report(error: e.JobStateError, ctx: click.Context) -> Exit:
    """Tell people or programs of a failed call, on standard error. Returns the exit code."""
    at: click.Context = ctx.meta.get(CALLER, ctx)
    server = server_of(ctx)
    told = hint(error, at.command_path)
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
            "hint": told or None,
        }
        print(line({"error": document}), file=sys.stderr)
        return exit_code(error)
    kind = f"{error.reason}: " if error.reason else ""
    if len(violations) == 1:
        ((option, field, problem),) = violations
        print(f"jobstate: {kind}{safe(option or field)}: {safe(problem)}", file=sys.stderr)
    else:
        print(f"jobstate: {kind}{safe(message(error, server))}", file=sys.stderr)
        for option, field, problem in violations:
            print(f"  {safe(option or field)}: {safe(problem)}", file=sys.stderr)
    if told:
        print(f"  {safe(told)}", file=sys.stderr)
    return exit_code(error)


def report_usage(told: str, hint: str, *, as_json: bool) -> Exit:
    """Tell people or programs what is wrong with the command line, on standard error. Returns the exit code."""
    if as_json:
        document: dict[str, Any] = {"reason": None, "code": None, "message": told, "metadata": {}, "violations": []}
        document |= {"retry_after": None, "request_id": None, "hint": hint or None}
        print(line({"error": document}), file=sys.stderr)
    else:
        print(f"jobstate: {safe(told)}", file=sys.stderr)
        if hint:
            print(f"  {safe(hint)}", file=sys.stderr)
    return Exit.USAGE
