"""The commands in the updates of a stream. Each update is a request that also has a unary call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.commands import Acquire, JobCommand
from jobstate_server.domain.errors import InvalidField
from jobstate_server.rpc.requests import attempts, create, dispatch, lifecycle
from jobstate_server.rpc.requests.keys import NewId

_COMMANDS: Mapping[str, Callable[[Any, Caller, NewId], JobCommand]] = {
    "create": create.create,
    "start": attempts.start,
    "progress": attempts.update_progress,
    "complete": attempts.complete,
    "fail": attempts.fail,
    "retry": lifecycle.retry,
    "cancel": lifecycle.cancel,
    "report_usage": attempts.report_usage,
    "release": dispatch.release,
}
"""By the names of ``JobUpdate.update``, except ``acquire``, which names no job."""


def command_of_update(
    update: pb.JobUpdate, caller: Caller, new_id: NewId, acquires: dispatch.StreamAcquires
) -> JobCommand | Acquire:
    """The command in an update. Raises InvalidField.

    Args:
        acquires: the acquires in the batch of this update.
    """
    kind = update.WhichOneof("update")
    if kind is None:
        raise InvalidField("update", "must be one of " + ", ".join([*_COMMANDS, "acquire"]))
    if kind == "acquire":
        return acquires.command(update.acquire)
    return _COMMANDS[kind](getattr(update, kind), caller, new_id)
