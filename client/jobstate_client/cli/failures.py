"""What is said when a command fails: what happened, why, and what to do about it."""

from __future__ import annotations

import sys

from jobstate_client import errors as e
from jobstate_client.cli.as_json import line
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.text import safe

_HINTS: dict[type[e.JobStateError], str] = {
    e.UnknownJobType: "`jobstate types` lists the job types that this server takes.",
    e.InvalidField: "Correct what is named above; `jobstate COMMAND --help` says what is expected.",
    e.MessageTooLarge: "Send less at once.",
    e.JobNotFound: "Check the id with `jobstate list`. A job that ended long ago may have been deleted by cleanup.",
    e.JobExists: "`jobstate get {job_id}` shows the job that has this id; choose another --id for a new one.",
    e.TransitionNotAllowed: "Do not repeat it: go by the job's state. `jobstate get {job_id}` shows it.",
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
}

_UNCERTAIN = (e.TransportError, e.StoreUnavailable, e.InternalError)
"""After these it is unknown whether a change was made."""


def exit_code(error: e.JobStateError) -> Exit:
    """The exit code of a failed call."""
    return Exit.LATER if isinstance(error, e.TryLater | e.Unreachable | e.DeadlineExceeded) else Exit.REFUSED


def hint(error: e.JobStateError) -> str:
    """What to do about it; empty when there is nothing to say."""
    facts = {"call_id": "", "job_id": "JOB_ID", **error.metadata}
    found = next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), "").format_map(facts)
    if error.request_id and isinstance(error, _UNCERTAIN):
        found += f" Whether the change was made is unknown: repeat the command with --request-id {error.request_id}."
    return found.strip()


def message(error: e.JobStateError, server: str) -> str:
    """What went wrong, for people: gRPC's own words are for programmers."""
    if isinstance(error, e.Unreachable):
        cause = error.message.rpartition(": ")[2].strip(")]")
        return f"no server answers at {server} ({cause})"
    if isinstance(error, e.DeadlineExceeded):
        return f"{server} gave no answer in time"
    return error.message


def report(error: e.JobStateError, server: str, *, as_json: bool) -> Exit:
    """Tell people or programs of a failed call, on standard error. Returns the exit code."""
    told = hint(error)
    if as_json:
        document = {
            "reason": error.reason or None,
            "code": None if error.code is None else error.code.name,
            "message": error.message,
            "metadata": error.metadata,
            "violations": [{"field": field, "description": problem} for field, problem in error.violations],
            "retry_after": None if error.retry_after is None else error.retry_after.total_seconds(),
            "request_id": error.request_id or None,
            "hint": told or None,
        }
        print(line({"error": document}), file=sys.stderr)
        return exit_code(error)
    kind = f"{error.reason}: " if error.reason else ""
    print(f"jobstate: {kind}{safe(message(error, server))}", file=sys.stderr)
    if len(error.violations) > 1:
        for field, problem in error.violations:
            print(f"  {safe(field)}: {safe(problem)}", file=sys.stderr)
    if told:
        print(f"  {safe(told)}", file=sys.stderr)
    return exit_code(error)
