"""The messages of a failed command: what happened, why, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobstate_client import errors as e
from jobstate_client.cli.exits import Exit

_HINTS: dict[type[e.JobStateError], str] = {
    e.UnknownJobType: "`jobstate types` lists the job types that this server takes.",
    e.InvalidField: "Correct the field named above; `{command} --help` says what is expected.",
    e.MessageTooLarge: "Send less at once.",
    e.JobNotFound: "Check the id with `jobstate list`. Cleanup may have deleted a job that ended long ago.",
    e.JobExists: "`jobstate get {job_id}` shows the job with this id; choose another --id for a new job.",
    e.GroupExists: "`jobstate get {job_id}` shows it; add to it with --group-id, or choose another --unique-key.",
    e.TransitionNotAllowed: "The job's state does not allow it. `jobstate get {job_id}` shows the job.{possible}",
    e.RetryNotAllowed: "Do not repeat the command. Create a new job if the work is still wanted.",
    e.AttemptSuperseded: "That attempt is over: stop its work and discard its results.",
    e.AttemptRequired: "Name the attempt that your own acquire or start returned: --attempt N.",
    e.ReleaseLimitReached: "Complete or fail the attempt. Create a job that is to wait with --delay.",
    e.GroupClosed: "Make a new group. Only a running member can add to its own closed group.",
    e.NotAGroup: "A job is a group only if it was created as one. Check the id with `jobstate list`.",
    e.RequestIdReused: "Use a new --request-id for a new call, or repeat the first call exactly.",
    e.CursorExpired: "Watch again without the cursor: with --snapshot, or with --from-earliest and a gap.",
    e.CursorUnknown: "The cursor belongs to another store. Watch again with --snapshot.",
    e.StoreUnavailable: "The store does not answer. Look at the server's log, and try again later.",
    e.TryLater: "The command is valid: try again later.",
    e.InternalError: "Give the call_id {call_id} to the operator of the server: its log has the cause.",
    e.Unreachable: "Is it running there? Name another server with --server HOST:PORT or JOBSTATE_SERVER.",
    e.DeadlineExceeded: "Try again, or give it longer with --timeout.",
    e.ClientClosed: "The command was already ending: run it again.",
    e.ClientForked: "This process was forked from one that used the client: run the command in a new process.",
}

_HELD_BACK = (
    "The job is delayed: `jobstate explain {job_id}` says until when, and `jobstate retry {job_id} --immediately` ends "
    "the delay."
)
_DELETED = (
    "The call was made the first time, and the job has been deleted since. Do not make it again with another "
    "--request-id."
)
_NEVER_BEGAN = (
    "Attempt {attempt} has not begun: the job is at attempt {current_attempt}. Write --attempt {current_attempt}."
)
_NOT_STARTED = "No attempt has begun: begin one with `jobstate start {job_id}`."
_UNKNOWN_CALL = "That server is not a jobstate server, or too old for this command. Check --server."

COMMANDS = {
    "start": "start",
    "claim": "start",
    "progress": "progress",
    "complete": "complete",
    "fail": "fail",
    "release": "release",
    "retry": "retry",
    "expedite": "retry --immediately",
    "cancel": "cancel",
}
"""The command for each transition that an error may name as allowed."""

_UNCERTAIN = (e.TransportError, e.StoreUnavailable, e.InternalError)
"""After these errors it is unknown whether a change was made."""


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why no server was reached, found in gRPC's message."""

    found: str
    """A regular expression."""
    message: str
    hint: str
    exit: Exit = Exit.USAGE


_CAUSES = (
    _Cause(
        "WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG",
        "what listens at {server} does not speak TLS",
        "Leave out --tls and the other TLS options, or name a server that has a certificate.",
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
        "the given certificate or key cannot be used",
        "The files of the --tls options must be PEM, and the key must belong to the certificate.",
    ),
    _Cause(
        "Tls handshake failed",
        "the TLS handshake with {server} failed",
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
    """What to do about the error; empty if there is nothing to say."""
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
    if isinstance(error, e.TransitionNotAllowed) and error.why == "held back":
        return _HELD_BACK
    if isinstance(error, e.JobNotFound) and error.deleted:
        return _DELETED
    if isinstance(error, e.AttemptSuperseded) and error.attempt > error.current_attempt:
        return _NEVER_BEGAN if error.current_attempt else _NOT_STARTED
    if error.code is not None and error.code.name == "UNIMPLEMENTED":
        return _UNKNOWN_CALL
    return next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), "")


def message(error: e.JobStateError, server: str) -> str:
    """What went wrong, for people: gRPC's own messages are for programmers."""
    if cause := _cause(error):
        return cause.message.format(server=server)
    if isinstance(error, e.Unreachable):
        reason = error.message.rpartition(": ")[2].strip(")]")
        return f"no server answers at {server} ({reason})"
    if isinstance(error, e.DeadlineExceeded):
        return f"{server} gave no answer in time"
    return error.message
