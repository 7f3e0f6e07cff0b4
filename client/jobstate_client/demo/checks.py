"""Checks the outcome of the demo against its scene: the jobs on the server, and what the watch has reported."""

from __future__ import annotations

from datetime import datetime, timedelta

from jobstate_client.aio.client import AsyncClient
from jobstate_client.core.documents import seconds
from jobstate_client.core.inspection import Stats
from jobstate_client.core.states import AttemptOutcome, EventType, Priority, State
from jobstate_client.demo.scene import ACTS, Act, Ending
from jobstate_client.demo.tracker import Tracker
from jobstate_client.demo.workers import Unexpected

_LEVELS = (Priority.BACKGROUND, Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.URGENT)
_STEP = timedelta(minutes=10)
"""How much waiting a level is worth: the priority_step of every job type, unless set otherwise."""

_OUTCOMES = {
    Ending.COMPLETES: AttemptOutcome.COMPLETED,
    Ending.FAILS: AttemptOutcome.FAILED,
    Ending.WORKER_IS_KILLED: AttemptOutcome.FAILED,
    Ending.IS_CANCELLED: AttemptOutcome.CANCELLED,
}


async def check_jobs(client: AsyncClient, tracker: Tracker) -> None:
    """Compare every job with its act, and with the job that the watch has reported.

    Raises:
        Unexpected: the first difference.
    """
    for act in ACTS:
        job, watched = await client.get(act.job_id), tracker.jobs[act.job_id]
        _compare(act, "state", act.final_state, job.state)
        _compare(act, "number of retries", len(act.delays), job.retry_count)
        _compare(act, "state in the watch", job.state, watched.state)
        _compare(act, "version in the watch", job.version, watched.version)
        expected = [(_OUTCOMES[attempt.ending], attempt.code) for attempt in act.attempts]
        ended = await client.attempts(act.job_id)
        found = [(attempt.outcome, attempt.error.code if attempt.error else "") for attempt in ended]
        _compare(act, "outcomes", expected, found)
    sequences = [event.sequence for event in tracker.events]
    if sequences != sorted(set(sequences)):
        raise Unexpected("the watch reported events out of order, or twice")


def check_retries(tracker: Tracker) -> None:
    """Compare the waits before retries with the scene, and the times of the retries with the waits.

    Raises:
        Unexpected: the first difference.
    """
    for act in ACTS:
        events = [event for event in tracker.events if event.job.id == act.job_id]
        retrying = [event for event in events if event.type is EventType.RETRYING]
        delays = tuple(seconds(event.detail.delay or 0.0) for event in retrying)
        _compare(act, "waits before retries", act.delays, delays)
        resumed = [event for event in events if event.type is EventType.STARTED and event.detail.resumed]
        early = [
            wait.job.attempt
            for wait, start in zip(retrying, resumed, strict=True)
            if wait.detail.next_retry_time is None or start.time < wait.detail.next_retry_time
        ]
        _compare(act, "attempts resumed too early", [], early)


def check_order(tracker: Tracker) -> int:
    """Compare every hand-out with the order in which jobs are handed out: by priority, and by how long they wait.

    Returns how many jobs the urgent one overtook: they were created before it, and handed out after.

    Raises:
        Unexpected: a job was handed out before one that was next, or the urgent one overtook nobody.
    """
    ready: dict[str, datetime] = {}
    overtaken: list[str] = []
    for event in tracker.events:
        job = event.job
        if event.type is EventType.QUEUED or (event.type is EventType.STARTED and event.detail.resumed):
            since = job.waiting_since
            if since is None:
                raise Unexpected(f"{job.id}: nobody can tell since when it waits")
            ready[job.id] = since - _LEVELS.index(job.priority) * _STEP
        elif event.type in {EventType.STARTED, EventType.CLAIMED}:
            following = min(ready, key=lambda job_id: (ready[job_id], job_id))
            if following != job.id:
                raise Unexpected(f"{job.id} was handed out while {following} was next")
            del ready[job.id]
            if job.priority is Priority.URGENT:
                overtaken = list(ready)
    if not overtaken:
        raise Unexpected("the urgent job overtook nobody")
    return len(overtaken)


def check_takeover(tracker: Tracker, killed: list[str]) -> None:
    """Compare the killed workers with what the watch has reported of their jobs.

    Raises:
        Unexpected: nobody was killed, or the job of a killed worker was not found stale and given to another.
    """
    acts = [act for act in ACTS if act.attempts[0].ending is Ending.WORKER_IS_KILLED]
    if len(killed) != len(acts):
        raise Unexpected(f"{len(killed)} workers were killed instead of {len(acts)}")
    for act in acts:
        events = [event for event in tracker.events if event.job.id == act.job_id]
        handed = [event.job.worker for event in events if event.type in {EventType.STARTED, EventType.CLAIMED}]
        workers = [worker for worker in handed if worker]
        _compare(act, "number of workers", len(act.attempts), len(workers))
        _compare(act, "killed worker", killed, workers[:1])
        if workers[1] in killed:
            raise Unexpected(f"{act.job_id} was handed to {workers[1]}, which had been killed")
        types = [event.type for event in events]
        _compare(act, "times that it was found stale", 1, types.count(EventType.STALE_DETECTED))


def check_stats(stats: Stats) -> None:
    """Compare the statistics with the scene.

    Raises:
        Unexpected: they differ.
    """
    states = [act.final_state for act in ACTS]
    expected = (
        states.count(State.COMPLETED),
        states.count(State.PERMANENTLY_FAILED),
        states.count(State.CANCELLED),
        sum(len(act.delays) for act in ACTS),
    )
    total = stats.total
    found = (total.completed, total.permanently_failed, total.cancelled, total.retries)
    if found != expected:
        raise Unexpected(
            f"the statistics are {found} instead of {expected} completed, permanently failed, cancelled, retries"
        )


def _compare(act: Act, what: str, expected: object, found: object) -> None:
    if found != expected:
        raise Unexpected(f"{act.job_id}: {what} should be {expected}, but is {found}")
