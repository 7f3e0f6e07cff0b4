"""The answer to a call that repeats an earlier one with the same request id."""

from __future__ import annotations

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import EarlierCall
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.errors import JobNotFound
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.attempt import check_attempt


def answered_again(earlier: EarlierCall, caller: Caller) -> Change:
    """The job of the earlier call as it is now.

    Raises:
        JobNotFound: it has been deleted since, or is out of the caller's reach.
    """
    if earlier.job is None:
        raise JobNotFound.deleted(earlier.job_id)
    if not caller.reach.admits(earlier.job.job_type, earlier.job.source_id):
        raise JobNotFound(earlier.job_id)
    return Change(earlier.job, earlier.job, is_existing=earlier.is_existing)


def repeat(command: c.JobCommand, earlier: EarlierCall, now: int) -> Change:
    """The answer to a repeat of ``command``.

    A worker that repeats Start works on the attempt in the answer. So a repeated Start is answered only while the
    attempt that the first call started or claimed is running.

    Raises:
        JobNotFound: the job has been deleted since, or is out of the caller's reach.
        TransitionNotAllowed, AttemptSuperseded: as for a report that names the attempt of the first call.
    """
    change = answered_again(earlier, command.caller)
    if isinstance(command, c.Start) and change.after is not None:
        named = c.AttemptCommand(job_id=change.after.id, attempt=earlier.attempt)
        check_attempt(change.after, named, Trigger.START, now)
    return change
