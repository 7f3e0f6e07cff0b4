"""Statistics as messages."""

from __future__ import annotations

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.job import NANO, JobState
from jobstate_server.domain.statistics import Statistics
from jobstate_server.domain.waiting import WaitReason
from jobstate_server.wire.times import set_span, set_time


def statistics_message(sums: Statistics, oldest_queued: int | None, oldest_ready: int | None) -> pb.JobTypeStats:
    """The statistics of one job type, or of all, as GetStats returns them."""
    message = pb.JobTypeStats(
        job_type=sums.job_type,
        completed=sums.ended[JobState.COMPLETED],
        permanently_failed=sums.ended[JobState.PERMANENTLY_FAILED],
        cancelled=sums.ended[JobState.CANCELLED],
        success_rate=sums.success_rate,
        retries=sums.retries,
        tokens=sums.tokens,
        cost=sums.cost_nano / NANO,
        running=sums.running,
        released=sums.released,
        expired=sums.expired,
    )
    for reason, count in sums.waiting.items():
        # Callers tell from TURN that this server says what jobs wait for.
        if count or reason is WaitReason.TURN:
            message.waiting.add(reason=job_pb2.WaitReason.ValueType(reason), count=count)
    if oldest_ready is not None:
        set_time(message.oldest_ready_time, oldest_ready)
    for state, count in sums.stored.items():
        if count:
            message.stored.add(state=job_pb2.JobState.ValueType(state), count=count)
    if oldest_queued is not None:
        set_time(message.oldest_queued_time, oldest_queued)
    for target, span in (
        ("duration_mean", sums.duration_mean),
        ("duration_p50", sums.duration_p50),
        ("duration_p95", sums.duration_p95),
        ("duration_p99", sums.duration_p99),
        ("wait_mean", sums.wait_mean),
        ("wait_p50", sums.wait_p50),
        ("wait_p95", sums.wait_p95),
        ("wait_p99", sums.wait_p99),
    ):
        if span is not None:
            set_span(getattr(message, target), span)
    return message
