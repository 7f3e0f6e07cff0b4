"""What holds a job back, as Explain tells it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from jobstate.v1 import dispatch_service_pb2 as pb
from jobstate_server.domain.job import INT64_MAX, Job, JobState
from jobstate_server.domain.needs import Need, NeedCondition
from jobstate_server.domain.turns import Limits
from jobstate_server.store.records import LaneRecord, TypeRecord
from jobstate_server.wire.times import set_time

Reason = pb.HoldReason

_WITHOUT_END = (
    pb.HOLD_REASON_NEED,
    pb.HOLD_REASON_GROUP,
    pb.HOLD_REASON_TYPE_PAUSED,
    pb.HOLD_REASON_LANE_PAUSED,
    pb.HOLD_REASON_LANE_CONCURRENCY,
)
"""How long these hold, the pace of the type does not tell."""


class Place(NamedTuple):
    """What a ready job waits behind."""

    of_type: TypeRecord
    lane: LaneRecord
    jobs_ahead: int
    """Ready jobs of its lane that come before it."""
    lanes_ahead: int
    """Lanes that have a turn before its own."""


def add_own(answer: pb.ExplainResponse, job: Job, now: int) -> None:
    """Add what the job itself waits for, without its needs."""
    until = job.next_retry_time if job.state is JobState.RETRYING else job.ready_time if job.held else None
    if until is not None and not (job.open_needs and until <= now):
        what = "its next attempt" if job.state is JobState.RETRYING else "the end of its delay"
        _add(answer, Reason.HOLD_REASON_TIME, f"it waits for {what}", until=until)
    if job.state is JobState.FAILED:
        text = "it failed, and its type does not retry by itself: call Retry or Cancel"
        _add(answer, Reason.HOLD_REASON_AWAITS_RETRY_CALL, text)


def add_needs(answer: pb.ExplainResponse, needs: Iterable[Need]) -> None:
    """Add the jobs that a job waits for. ``needs``: some of those that are not met yet."""
    for need in needs:
        how = _CONDITIONS[need.condition]
        _add(answer, Reason.HOLD_REASON_NEED, f"it waits for job {need.job_id} to {how}", subject=need.job_id)


_CONDITIONS = {
    NeedCondition.COMPLETED: "be COMPLETED",
    NeedCondition.FINAL: "end",
    NeedCondition.NOT_COMPLETED: "be PERMANENTLY_FAILED or CANCELLED",
}


def add_group(answer: pb.ExplainResponse, group_id: str) -> None:
    """Add that a group around the job is stopping."""
    text = f"group {group_id} is stopping, so the job will be cancelled"
    _add(answer, Reason.HOLD_REASON_GROUP, text, subject=group_id)


def add_shared(answer: pb.ExplainResponse, job: Job, place: Place, limits: Limits, now: int) -> None:
    """Add what holds back a ready job with others. What ends when a worker asks has no time at which it ends."""
    _add_pauses(answer, job, place)
    _add_limits(answer, job, place, limits)
    _add_times(answer, job, place, limits, now)
    if place.jobs_ahead or place.lanes_ahead:
        ahead = []
        if place.jobs_ahead:
            ahead.append(_counted(place.jobs_ahead, "job") + (" of its lane" if job.lane else ""))
        if place.lanes_ahead:
            ahead.append(_counted(place.lanes_ahead, "lane"))
        comes = "comes" if place.jobs_ahead + place.lanes_ahead == 1 else "come"
        _add(answer, Reason.HOLD_REASON_TURN, f"{' and '.join(ahead)} {comes} before it")
    if not answer.waiting_acquires:
        text = f"no worker is waiting for jobs of type {job.job_type} at this server"
        _add(answer, Reason.HOLD_REASON_NO_WORKER, text)


def earliest(answer: pb.ExplainResponse, now: int) -> int | None:
    """When the job may begin at the earliest, going by what holds it back. None if nobody knows."""
    if any(hold.reason in _WITHOUT_END for hold in answer.holds):
        return None
    return max([now, *(hold.end_time.ToMicroseconds() for hold in answer.holds if hold.HasField("end_time"))])


def _add_pauses(answer: pb.ExplainResponse, job: Job, place: Place) -> None:
    if place.of_type.state.paused:
        text = _with_reason(f"its type {job.job_type} is paused", place.of_type.pause_reason)
        _add(answer, Reason.HOLD_REASON_TYPE_PAUSED, text)
    if place.lane.state.paused:
        text = _with_reason(f"its lane {job.lane!r} is paused", place.lane.pause_reason)
        _add(answer, Reason.HOLD_REASON_LANE_PAUSED, text, subject=job.lane)


def _add_limits(answer: pb.ExplainResponse, job: Job, place: Place, limits: Limits) -> None:
    running, counts = place.of_type.state.counts.running, place.lane.state.counts
    if running >= limits.concurrency:
        text = f"its type has {running:,} of {limits.concurrency:,} attempts running"
        hold = _add(answer, Reason.HOLD_REASON_TYPE_CONCURRENCY, text)
        hold.limit.used, hold.limit.limit = running, limits.concurrency
    if limits.lane_concurrency != INT64_MAX and not limits.has_place(counts, returns=job.attempt > 0):
        used = limits.under_way(counts) + (counts.returned if limits.holds_jobs else 0)
        what = "jobs begun" if limits.holds_jobs else "attempts running"
        hold = _add(
            answer,
            Reason.HOLD_REASON_LANE_CONCURRENCY,
            f"its lane has {used:,} of {limits.lane_concurrency:,} {what}",
            subject=job.lane,
        )
        hold.limit.used, hold.limit.limit = used, limits.lane_concurrency


def _add_times(answer: pb.ExplainResponse, job: Job, place: Place, limits: Limits, now: int) -> None:
    lane = place.lane.state
    opens = limits.type_opens(place.of_type.state)
    if limits.rate is not None and opens > now:
        text = f"as many jobs of its type were handed out as its rate of {limits.rate} allows"
        _add(answer, Reason.HOLD_REASON_TYPE_RATE, text, until=opens)
    opens = 0 if limits.lane_rate is None else limits.lane_rate.opens(lane.next_even_time)
    if limits.lane_rate is not None and opens > now:
        text = f"as many jobs of its lane were handed out as the rate of {limits.lane_rate} allows"
        _add(answer, Reason.HOLD_REASON_LANE_RATE, text, subject=job.lane, until=opens)
    if lane.held_until > now:
        text = _with_reason(f"a Release holds its lane {job.lane!r}", place.lane.hold_reason)
        _add(answer, Reason.HOLD_REASON_LANE_HELD, text, subject=job.lane, until=lane.held_until)


def _with_reason(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


def _counted(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count:,} {what}s"


def _add(
    answer: pb.ExplainResponse,
    reason: pb.HoldReason.ValueType,
    text: str,
    *,
    subject: str = "",
    until: int | None = None,
) -> pb.Hold:
    hold = answer.holds.add(reason=reason, text=text, subject=subject)
    if until is not None:
        set_time(hold.end_time, until)
    return hold
