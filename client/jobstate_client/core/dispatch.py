"""The operations of dispatch, like those of operations.py: ask for work, give it back, and ask why a job waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import decoding, validation
from jobstate_client.core import values as v
from jobstate_client.core.calls import Call, Pages, decode_with
from jobstate_client.core.documents import duration, seconds
from jobstate_client.core.operations import JobRef, attempt_of, id_of, new_request_id, usage_of
from jobstate_client.core.releasing import hold_of
from jobstate_client.core.values import Span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Explanation, Lane, Paused, TypeStatus, Unpaused


def acquire(
    job_types: Iterable[str],
    *,
    max_jobs: int = 1,
    wait: Span | None = None,
    lease: Span | None = None,
    worker: str = "",
    request_id: str = "",
    timeout: Span | None = None,
) -> Call[tuple[v.Job, ...]]:
    """Get work: begin the attempts of up to ``max_jobs`` jobs of these types that are ready, and return the jobs.

    The server decides which: the lanes of a type take turns, and in a lane those of high priority come first, then
    those that have been ready for longest. What is paused, held or over a limit is passed over. If nothing is left, the
    call waits for up to ``wait`` (60 seconds at most), and then returns what there is, perhaps nothing. That time
    is added to the client's timeout.

    The attempts are leased. Report each one at least once within every ``lease`` (None takes the type's), if only by
    ``progress(job)``, or the server fails it as STALE. Keep the returned jobs: they name their attempts. Give back with
    ``release`` what you will not do.

    If the answer is lost, the jobs are kept until their lease is over for a repeat with the same ``request_id``, which
    returns those that are still claimed.

    Raises:
        UnknownJobType: the server takes no jobs of one of these types.
        InvalidField: ``job_types`` is empty, or another argument is out of its bounds.
    """
    request = pb.AcquireRequest(
        job_types=validation.names(job_types, "job_types"),
        max_jobs=max_jobs,
        wait=None if wait is None else duration(wait, "wait"),
        lease=None if lease is None else duration(lease, "lease"),
        worker=worker,
        request_id=request_id or new_request_id(),
    )
    return Call("Acquire", request, _acquired, timeout, 0.0 if wait is None else seconds(wait, "wait"))


def _acquired(response: pb.AcquireResponse) -> tuple[v.Job, ...]:
    return tuple(decoding.job(decoding.own_copy(each)) for each in response.jobs)


def release(  # noqa: PLR0913 - what may be said of the end of an attempt, most by keyword
    job: JobRef,
    reason: str = "",
    *,
    delay: Span | None = None,
    hold_lane: Span | bool | None = None,
    tokens: int | None = None,
    cost: float | None = None,
    attempt: int | None = None,
    request_id: str = "",
    timeout: Span | None = None,
) -> Call[v.Job]:
    """Give the running attempt back without a verdict: it costs no retry, and the job is handed out again.

    Without ``delay`` (7 days at most) the job keeps its place in the order. For the time of ``hold_lane`` (1 hour at
    most) no job of its lane is handed out; True is as long as ``delay``, at most 1 hour. An attempt that nobody has
    claimed is claimed first.

    Raises:
        ReleaseLimitReached: the job has been released 1,000 times. Complete or fail the attempt.
        AttemptSuperseded, TransitionNotAllowed: the attempt is already over.
        JobCancelled: the attempt is over because the job was cancelled.
        ValueError: ``hold_lane`` is True without a delay.
    """
    hold = hold_of(hold_lane, delay)
    request = pb.ReleaseRequest(
        id=id_of(job),
        reason=reason,
        delay=None if delay is None else duration(delay, "delay"),
        hold_lane=None if hold is None else duration(hold, "hold_lane"),
        usage=usage_of(tokens, cost),
        attempt=attempt_of(job, attempt),
        request_id=request_id or new_request_id(),
    )
    return Call("Release", request, decoding.job_in, timeout)


def explain(job: JobRef, *, timeout: Span | None = None) -> Call[Explanation]:
    """Why nobody works on a job: all that holds it back now, and when it is expected to begin.

    Raises:
        JobNotFound: there is no such job.
    """
    return Call("Explain", dispatch_pb.ExplainRequest(id=id_of(job)), decode_with("explanation"), timeout)


def pause(job_type: str, *, lane: str | None = None, reason: str = "", timeout: Span | None = None) -> Call[Paused]:
    """Stop handing out the jobs of a type, or those of one of its lanes, at all servers until ``unpause``.

    Attempts under way are not affected. Once it returns, no ``acquire`` is given such a job.

    Raises:
        UnknownJobType: the server takes no jobs of this type.
    """
    request = dispatch_pb.PauseRequest(job_type=job_type, lane=lane, reason=reason)
    return Call("Pause", request, decode_with("paused"), timeout)


def unpause(job_type: str, *, lane: str | None = None, timeout: Span | None = None) -> Call[Unpaused]:
    """Go on handing out the jobs of a type, or those of one of its lanes. Lanes paused by themselves stay paused.

    Raises:
        UnknownJobType: the server takes no jobs of this type.
    """
    return Call("Unpause", dispatch_pb.UnpauseRequest(job_type=job_type, lane=lane), decode_with("unpaused"), timeout)


def lanes(job_type: str, *, page_size: int = 0, timeout: Span | None = None) -> Pages[Lane]:
    """Iterate over the lanes of a type in the order of their turns, then over those that cannot have one now.

    Turns move while pages are fetched, so a lane may come twice or not at all. ``timeout`` is for each page.
    """
    request = dispatch_pb.ListLanesRequest(job_type=job_type, page_size=page_size)
    return Pages(Call("ListLanes", request, decode_with("lanes"), timeout))


def type_status(job_type: str, *, timeout: Span | None = None) -> Call[TypeStatus]:
    """Whether a type is paused, and whether its rate holds it back now."""
    request = dispatch_pb.ListLanesRequest(job_type=job_type, page_size=1)
    return Call("ListLanes", request, decode_with("type_status"), timeout)
