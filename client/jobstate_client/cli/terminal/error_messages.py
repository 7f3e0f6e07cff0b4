"""What is said when a command fails: what happened, why, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobstate_client import errors as e
from jobstate_client.cli.exits import Exit

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
    if error.code is not None and error.code.name == "UNIMPLEMENTED":
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
