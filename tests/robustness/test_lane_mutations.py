"""Ways to break lanes, limits, rates and pauses on purpose, and the validator that catches each.

Every scenario is run twice, as the server is and with the defect put in: what goes red then shows that the promise is
held by the code and not by luck, and that its validator looks.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.domain.job import INT64_MAX, Job, JobState
from jobstate_server.domain.job_types import SHIPPED_JOB_TYPES, JobType, JobTypes
from jobstate_server.domain.lanes import NOTHING_COUNTED, LaneCounts, LaneHolds, counts_of
from jobstate_server.domain.rates import PerTime, Rate
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.domain.turns import Limits
from jobstate_server.engine import handing_out
from jobstate_server.engine.acquires import LOOK_INTERVAL
from jobstate_server.engine.dispatcher import Dispatcher
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.sqlite import lanes as sqlite_lanes

from .history import History
from .recording import policy_of
from .replica_rig import PICKED, GatedTransaction, Replicas, replicated
from .rig import Rig, complete, create, fail, release, rigged, start
from .test_dispatch_mutations import DispatchMutation
from .test_replica_mutations import ReplicaMutation, storing
from .validators import broken


def _type(name: str, **limits: Any) -> JobType:
    default = SHIPPED_JOB_TYPES[-1]
    values = {field: getattr(default, field) for field in ("max_retries", "timeout", "max_delay", "stale_threshold")}
    return JobType(name=name, base_delay=SECOND, **values, **limits)


JOB_TYPES = JobTypes(
    (
        *SHIPPED_JOB_TYPES,
        _type("one", concurrency=1),
        _type("each", lane_concurrency=1),
        _type("sequence", lane_concurrency=1, lane_holds=LaneHolds.JOB),
        _type("paced", rate=PerTime(6, MINUTE), burst=1),
    )
)


class LimitedDecider(Decider):
    """A decider that goes by these types."""

    def __init__(self, _job_types: JobTypes, *parts: Any) -> None:
        super().__init__(JOB_TYPES, *parts)


def goes_by_the_last_turn_alone(patch: pytest.MonkeyPatch) -> None:
    """How many a lane has under way does not count."""
    patch.setattr(Limits, "under_way", lambda *_: 0)


def forgets_limits(patch: pytest.MonkeyPatch) -> None:
    """What is under way is not compared with anything."""
    init = Limits.__init__

    def made(self: Limits, policy: JobType) -> None:
        init(self, policy)
        self.concurrency = self.lane_concurrency = INT64_MAX

    patch.setattr(Limits, "__init__", made)


def gives_places_away(patch: pytest.MonkeyPatch) -> None:
    """A job that waits for its next attempt has no place in its lane."""
    patch.setattr(JobType, "holds_jobs", property(lambda _: False))


def forgets_what_a_rate_has_used(patch: pytest.MonkeyPatch) -> None:
    """A hand-out takes no time."""
    patch.setattr(Rate, "interval", property(lambda _: 0))


def forgets_pauses(patch: pytest.MonkeyPatch) -> None:
    """A pause is answered, and not stored."""
    patch.setattr(sqlite_lanes, "_pause", lambda *_: None)


def forgets_who_waits_for_a_place(patch: pytest.MonkeyPatch) -> None:
    """The end of an attempt wakes nobody."""
    patch.setattr(Dispatcher, "_add_freed", lambda *_: None)


def miscounts_what_rests(patch: pytest.MonkeyPatch) -> None:
    """What waits for its next attempt is not counted in its lane."""

    def counts(job: Job | None) -> LaneCounts:
        return NOTHING_COUNTED if job is not None and job.state is JobState.RETRYING else counts_of(job)

    patch.setattr(handing_out, "counts_of", counts)


async def _fill(rig: Rig, job_type: str, **lanes: int) -> None:
    for lane, count in lanes.items():
        for number in range(count):
            await rig.call(create(f"{lane}{number}", job_type=job_type, lane=lane))


async def has_a_lane_of_long_jobs(rig: Rig) -> None:
    """Both lanes have had a turn, and the job of the later one has ended."""
    await _fill(rig, "default", long=2, short=2)
    for worker in ("one", "other"):
        await rig.acquire(worker)
    await rig.call(complete("short0"))
    await rig.acquire("third", max_jobs=2)


async def has_one_place(rig: Rig) -> None:
    """And is asked for two jobs."""
    await _fill(rig, "one", lane=2)
    for worker in ("one", "other"):
        await rig.acquire(worker, job_type="one")


async def has_one_place_in_a_lane(rig: Rig) -> None:
    """And is asked for two jobs at once."""
    await _fill(rig, "each", lane=2)
    await rig.acquire("one", job_type="each", max_jobs=2)


async def has_a_sequence_whose_first_job_waits(rig: Rig) -> None:
    """It has failed, and its retry is not due yet."""
    await _fill(rig, "sequence", lane=2)
    await rig.acquire("one", job_type="sequence")
    await rig.call(fail("lane0"))
    await rig.acquire("other", job_type="sequence")


async def is_asked_twice_in_a_moment(rig: Rig) -> None:
    """Of a type of which one may be handed out in ten seconds."""
    await _fill(rig, "paced", lane=9)
    await rig.acquire("one", job_type="paced", max_jobs=9)


async def is_asked_for_what_is_paused(rig: Rig) -> None:
    """First a lane, then the whole type."""
    await _fill(rig, "default", a=1, b=1)
    await rig.pause("default", "a")
    await rig.acquire("one", max_jobs=2)
    await rig.pause("default")
    await rig.pause("default", "a", paused=False)
    await rig.acquire("other")
    await rig.pause("default", paused=False)
    await rig.acquire("third")


async def is_waited_at_for_a_place(rig: Rig) -> None:
    """A call waits while the only place becomes free. Its time is up before the server looks for itself."""
    await _fill(rig, "one", lane=2)
    await rig.acquire("one", job_type="one")
    waiting = asyncio.create_task(rig.acquire("other", wait=LOOK_INTERVAL // 2, job_type="one"))
    await rig.waiting(1)
    await rig.call(complete("lane0"))
    rig.clock.advance(LOOK_INTERVAL // 2)
    await waiting


async def gets_a_job_back_for_later(rig: Rig) -> None:
    """A worker gives it back with a delay."""
    await _fill(rig, "default", lane=1)
    await rig.acquire("one")
    await rig.call(release("lane0", 1, delay=MINUTE))


MUTATIONS = [
    DispatchMutation(
        "P4: go by the last turn alone", has_a_lane_of_long_jobs, goes_by_the_last_turn_alone, {"by_turns"}
    ),
    DispatchMutation("P5: forget the limit of a type", has_one_place, forgets_limits, {"within_limits"}),
    DispatchMutation("P5: forget the limit of a lane", has_one_place_in_a_lane, forgets_limits, {"within_limits"}),
    DispatchMutation(
        "P5: give away the place of a job that waits",
        has_a_sequence_whose_first_job_waits,
        gives_places_away,
        {"within_limits"},
    ),
    DispatchMutation(
        "P6: forget what a rate has used", is_asked_twice_in_a_moment, forgets_what_a_rate_has_used, {"within_rates"}
    ),
    DispatchMutation("P7: forget pauses", is_asked_for_what_is_paused, forgets_pauses, {"paused"}),
    DispatchMutation(
        "P11: forget who waits for a place", is_waited_at_for_a_place, forgets_who_waits_for_a_place, {"conserved"}
    ),
    DispatchMutation("P20: miscount what rests", gets_a_job_back_for_later, miscounts_what_rests, {"tallied"}),
]

OF_EACH = pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])


async def history_of(path: Path, mutation: DispatchMutation) -> History:
    """What a scenario leaves."""
    async with rigged(path, decider=LimitedDecider) as rig:
        await mutation.scenario(rig)
    return rig.history()


@OF_EACH
async def test_the_server_as_it_is_keeps_every_promise_of_lanes_when_it(
    mutation: DispatchMutation, tmp_path: Path
) -> None:
    assert broken(await history_of(tmp_path / "jobs.db", mutation)) == {}


@OF_EACH
async def test_validators_of_lanes_catch_a_server_made_to(
    mutation: DispatchMutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = {policy.name: policy_of(policy) for policy in JOB_TYPES.all()}
    mutation.defect(monkeypatch)
    history = await history_of(tmp_path / "jobs.db", mutation)
    # It is judged by the limits that the server should have kept.
    history.policies = policies

    assert set(broken(history)) == mutation.caught_by


# Replicas.


class ChecksNothing(GatedTransaction):
    """What a hand-out relies on is not checked again when the log is locked."""

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        is_check = text in {sql.CHECK_TYPES, sql.CHECK_LANES}
        return super()._execute(b"SELECT 1" if is_check else text, **values)


async def start_by_hand_what_another_hands_out(replicas: Replicas) -> None:
    """The one has picked a job for the only place, and is held, when the other starts a job by hand."""
    one, other = replicas.one, replicas.other
    for job_id in ("first", "second"):
        await one.call(create(job_id, job_type="one"))

    one.store.gate.close_at(PICKED)
    held = asyncio.create_task(one.acquire("worker", job_type="one"))
    await one.store.gate.reached()
    await other.call(start("second"))
    one.store.gate.open()
    await held


REPLICA_MUTATIONS = [
    ReplicaMutation(
        "P5: rely on what was read before the log was locked",
        start_by_hand_what_another_hands_out,
        {"store": storing(ChecksNothing)},
        {"within_limits"},
    ),
]

OF_REPLICAS = pytest.mark.parametrize(
    "mutation", REPLICA_MUTATIONS, ids=[mutation.name for mutation in REPLICA_MUTATIONS]
)


async def joint_history(mutation: ReplicaMutation, *, mutated: bool) -> History:
    async with replicated(decider=LimitedDecider, **(mutation.defect if mutated else {})) as replicas:
        await mutation.scenario(replicas)
    return replicas.history()


@OF_REPLICAS
async def test_replicas_as_they_are_keep_every_promise_of_lanes_when_they(mutation: ReplicaMutation) -> None:
    assert broken(await joint_history(mutation, mutated=False)) == {}


@OF_REPLICAS
async def test_validators_of_lanes_catch_replicas_made_to(mutation: ReplicaMutation) -> None:
    assert set(broken(await joint_history(mutation, mutated=True))) == mutation.caught_by
