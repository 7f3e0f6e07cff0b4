"""Requests that change a job, as commands: validated and converted, the same for a call of its own and in a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.commands import Command
from jobstate_server.domain.errors import InvalidField
from jobstate_server.rpc import validate
from jobstate_server.rpc.calls import Call
from jobstate_server.wire import requests as convert

_Rule = tuple[Callable[[Any], None], Callable[[Any, Call, convert.NewId], Command]]

_RULES: dict[str, _Rule] = {
    "create": (validate.create, convert.create_command),
    "start": (validate.start, convert.start_command),
    "progress": (validate.update_progress, convert.progress_command),
    "complete": (validate.complete, convert.complete_command),
    "fail": (validate.fail, convert.fail_command),
    "retry": (validate.retry, convert.retry_command),
    "cancel": (validate.cancel, convert.cancel_command),
    "report_usage": (validate.report_usage, convert.report_usage_command),
}
"""By the names of ``JobUpdate.update``."""


def command_of(kind: str, request: Any, call: Call, new_id: convert.NewId) -> Command:
    """The command in a request.

    Raises:
        InvalidField: the request is not acceptable.
    """
    check, to_command = _RULES[kind]
    check(request)
    return to_command(request, call, new_id)


def command_of_update(update: pb.JobUpdate, call: Call, new_id: convert.NewId) -> Command:
    """The command in an update of a stream. Raises InvalidField."""
    kind = update.WhichOneof("update")
    if kind is None:
        raise InvalidField("update", "must be one of " + ", ".join(_RULES))
    return command_of(kind, getattr(update, kind), call, new_id)
