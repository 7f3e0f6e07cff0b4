"""Whether everything came out as told: asked of the server itself, and of the watch."""

from __future__ import annotations

import grpc

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc
from jobstate_client.demo.board import Overview, seconds, state_name
from jobstate_client.demo.scene import ACTS, Act, Ending
from jobstate_client.demo.workers import NotAsTold

_OUTCOMES = {
    Ending.COMPLETES: job_pb2.ATTEMPT_OUTCOME_COMPLETED,
    Ending.FAILS: job_pb2.ATTEMPT_OUTCOME_FAILED,
    Ending.FALLS_SILENT: job_pb2.ATTEMPT_OUTCOME_FAILED,
    Ending.IS_CANCELLED: job_pb2.ATTEMPT_OUTCOME_CANCELLED,
}


async def check_jobs(channel: grpc.aio.Channel, board: Overview) -> None:
    """Compare every job with its act, and with the copy that the watch has kept.

    Raises:
        NotAsTold: the first difference.
    """
    for act in ACTS:
        answer = await rpc.JobServiceStub(channel).Get(pb.GetRequest(id=act.job_id, include_attempts=True))
        job, held = answer.job, board.jobs[act.job_id]
        _same(act, "state", state_name(act.ends), state_name(job.state))
        _same(act, "number of retries", len(act.delays), job.retry_count)
        _same(act, "state told by the watch", state_name(job.state), state_name(held.state))
        _same(act, "version told by the watch", job.version, held.version)
        outcomes = [(_OUTCOMES[attempt.ending], attempt.code) for attempt in act.attempts]
        _same(act, "outcomes", outcomes, [(attempt.outcome, attempt.error.code) for attempt in answer.attempts])
    sequences = [event.sequence for event in board.events]
    if sequences != sorted(set(sequences)):
        raise NotAsTold("the watch told events out of order, or twice")


def check_retries(board: Overview) -> None:
    """Compare the waits before retries with the backoff of their types, and the times of resuming with the waits.

    Raises:
        NotAsTold: the first difference.
    """
    for act in ACTS:
        events = [event for event in board.events if event.job.id == act.job_id]
        retrying = [event for event in events if event.type == event_pb2.EVENT_TYPE_RETRYING]
        delays = tuple(seconds(event.retrying.delay.ToTimedelta()) for event in retrying)
        _same(act, "waits before retries", act.delays, delays)
        resumed = [event for event in events if event.type == event_pb2.EVENT_TYPE_STARTED and event.started.resumed]
        early = [
            wait.job.attempt
            for wait, start in zip(retrying, resumed, strict=True)
            if start.time.ToNanoseconds() < wait.retrying.next_retry_time.ToNanoseconds()
        ]
        _same(act, "attempts resumed before their time", [], early)


def check_stats(stats: pb.GetStatsResponse) -> None:
    """Compare the statistics with the scene.

    Raises:
        NotAsTold: they differ.
    """
    ends = [act.ends for act in ACTS]
    wanted = (
        ends.count(job_pb2.JOB_STATE_COMPLETED),
        ends.count(job_pb2.JOB_STATE_PERMANENTLY_FAILED),
        ends.count(job_pb2.JOB_STATE_CANCELLED),
        sum(len(act.delays) for act in ACTS),
    )
    total = stats.total
    counted = (total.completed, total.permanently_failed, total.cancelled, total.retries)
    if counted != wanted:
        raise NotAsTold(
            f"the statistics count {counted} instead of {wanted} completed, permanently failed, cancelled, retries"
        )


def _same(act: Act, what: str, wanted: object, found: object) -> None:
    if found != wanted:
        raise NotAsTold(f"{act.job_id}: {what} should be {wanted}, but is {found}")
