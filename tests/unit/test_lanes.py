"""Turns between lanes, limits and rates, against models."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.dispatch_order import ReadyJobs
from jobstate_server.domain.durations import DAY, MINUTE, SECOND
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.job_types import JobType, JobTypes
from jobstate_server.domain.lane_moves import LaneMoves
from jobstate_server.domain.lanes import LaneCounts, LaneFrom, LaneHolds, counts_of, lane_from
from jobstate_server.domain.rates import PerTime, Rate, default_burst
from jobstate_server.domain.turns import LaneState, Limits, TypeState, turns_of
from jobstate_server.engine.enough import Enough
from jobstate_server.engine.handing_out import HandingOut

from .support import JOB_TYPES, NOW

DEFAULT = next(some for some in JOB_TYPES if some.name == "default")


def policy(**changes: Any) -> JobType:
    return replace(DEFAULT, **changes)


# Rates.

rates = st.builds(Rate, st.integers(1, 20), st.integers(1, 50).map(lambda n: n * SECOND), st.integers(1, 20)).map(
    lambda rate: Rate(rate.count, rate.period, min(rate.burst, rate.count))
)


@given(rates, st.lists(st.integers(0, 30 * SECOND), max_size=80))
def test_a_rate_never_allows_more_than_it_says_in_any_half_open_period(rate: Rate, steps: list[int]) -> None:
    now, even, taken = NOW, 0, []
    for step in steps:
        now += step
        while rate.opens(even) <= now:
            even = rate.after(even, now)
            taken.append(now)

    for first in taken:
        assert sum(first <= time < first + rate.period for time in taken) <= rate.count + rate.burst - 1


@given(rates)
def test_a_rate_allows_its_burst_at_once_and_its_count_over_time(rate: Rate) -> None:
    even, at_once = 0, 0
    while rate.opens(even) <= NOW:
        even = rate.after(even, NOW)
        at_once += 1
    assert at_once == rate.burst

    now, later = NOW, 0
    while now < NOW + 10 * rate.period:
        now = max(now, rate.opens(even))
        even = rate.after(even, now)
        later += 1
    assert later >= 10 * rate.count - 1


@given(rates, st.lists(st.integers(-SECOND, SECOND), min_size=1, max_size=60))
def test_a_rate_holds_though_commits_come_in_another_order_than_their_times(rate: Rate, steps: list[int]) -> None:
    now, even, taken = NOW, 0, []
    for step in steps:
        now += step
        if rate.opens(even) <= now:
            even = rate.after(even, now)
            taken.append(now)

    for first in taken:
        assert sum(first <= time < first + rate.period for time in taken) <= rate.count + rate.burst - 1


def test_a_burst_is_a_tenth_unless_it_is_set() -> None:
    assert [default_burst(count) for count in (1, 9, 10, 600)] == [1, 1, 1, 60]
    assert policy(rate=PerTime(600, MINUTE)).hand_out_rate == Rate(600, MINUTE, 60)
    assert policy(rate=PerTime(600, MINUTE), burst=20).hand_out_rate == Rate(600, MINUTE, 20)


@pytest.mark.parametrize(
    "changes",
    [
        {"concurrency": -1},
        {"concurrency": 1_000_001},
        {"lane_concurrency": -1},
        {"rate": PerTime(0, SECOND)},
        {"rate": PerTime(10_001, SECOND)},
        {"rate": PerTime(1, SECOND - 1)},
        {"rate": PerTime(1, 7 * DAY + 1)},
        {"rate": PerTime(5, SECOND), "burst": 6},
        {"lane_rate": PerTime(0, SECOND)},
        {"lane_burst": -1},
    ],
)
def test_a_policy_that_cannot_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(changes))):
        policy(**changes)


# Lanes.


@given(st.text(max_size=300))
def test_a_lane_of_a_source_fits_and_no_two_sources_share_one(source: str) -> None:
    lane = lane_from(LaneFrom.SOURCE_ID, source)

    assert len(lane.encode()) <= 128
    assert lane == source or (len(source.encode()) > 128 and lane != lane_from(LaneFrom.SOURCE_ID, source + "x"))
    assert lane_from(LaneFrom.NONE, source) == ""


def a_job(job_id: str, lane: str, number: int, **changes: Any) -> Job:
    return replace(
        Job(id=job_id, job_type="default", lane=lane, ready_time=NOW + number, create_sequence=number + 1), **changes
    )


# Turns, against a model that tries every lane each time.


class Model:
    """Hands out one job at a time, and looks at everything."""

    def __init__(self, policy: JobType, jobs: list[Job], running: dict[str, int], turns: dict[str, int]) -> None:
        self.policy = policy
        self.waiting = {lane: [job for job in jobs if job.lane == lane] for lane in {job.lane for job in jobs}}
        self.running = Counter(running)
        self.turns = dict(turns)
        self.clock = max([NOW, *turns.values()])
        self.evens: Counter[str] = Counter()
        self.even = 0

    def next(self) -> str | None:
        limit = self.policy.concurrency
        rate, lane_rate = self.policy.hand_out_rate, self.policy.lane_hand_out_rate
        if limit and self.running.total() >= limit:
            return None
        if rate is not None and rate.opens(self.even) > NOW:
            return None
        open_lanes = [
            lane
            for lane, jobs in self.waiting.items()
            if jobs
            and not (self.policy.lane_concurrency and self.running[lane] >= self.policy.lane_concurrency)
            and not (lane_rate is not None and lane_rate.opens(self.evens[lane]) > NOW)
        ]
        if not open_lanes:
            return None
        lane = min(open_lanes, key=lambda lane: (self.running[lane], self.turns.get(lane, 0), lane))
        self.running[lane] += 1
        self.clock += 1
        self.turns[lane] = self.clock
        if rate is not None:
            self.even = rate.after(self.even, NOW)
        if lane_rate is not None:
            self.evens[lane] = lane_rate.after(self.evens[lane], NOW)
        return self.waiting[lane].pop(0).id


policies = st.builds(
    policy,
    concurrency=st.sampled_from([0, 0, 3, 9]),
    lane_concurrency=st.sampled_from([0, 0, 1, 2]),
    rate=st.sampled_from([None, None, PerTime(60, MINUTE)]),
    lane_rate=st.sampled_from([None, None, PerTime(20, MINUTE)]),
)
LANES = ["", "a", "b", "c", "d"]


@given(
    policies,
    st.lists(st.sampled_from(LANES), max_size=30),
    st.dictionaries(st.sampled_from(LANES), st.integers(0, 4)),
    st.dictionaries(st.sampled_from(LANES), st.integers(NOW - 9, NOW - 1)),
    st.lists(st.integers(1, 6), max_size=6),
)
def test_lanes_have_their_turns_as_in_the_model(
    policy: JobType, lanes: list[str], running: dict[str, int], turns: dict[str, int], calls: list[int]
) -> None:
    """P4 and P5, within one transaction of several calls."""
    jobs = [a_job(str(number), lane, number) for number, lane in enumerate(lanes)]
    model = Model(policy, jobs, running, turns)
    moves = LaneMoves(JobTypes([policy]))
    ready = ReadyJobs(JobTypes([policy]), moves)
    state = TypeState("default", is_stored=True, counts=LaneCounts(running=sum(running.values())))
    state.turn_time = max(turns.values(), default=0)
    for lane in LANES:
        state.lanes[lane] = LaneState(lane, LaneCounts(running=running.get(lane, 0)), turns.get(lane, 0))
    ready.know(state)
    now = {job.id: job for job in jobs}
    for job in jobs:
        ready.add(job)

    for wanted in calls:
        handed = []
        for job in ready.in_order(["default"], now, NOW):
            handed.append(job)
            if len(handed) == wanted:
                break
        for job in handed:
            after = replace(job, state=JobState.PROCESSING, attempt=1, claimed=True, lease=MINUTE)
            moves.hand_out(job, NOW, state.turn_time)
            moves.add(after.job_type, after.lane, counts_of(job), counts_of(after))
            now[job.id] = after
        expected = [job_id for _ in range(wanted) if (job_id := model.next()) is not None]
        assert [job.id for job in handed] == expected


@given(
    st.dictionaries(st.sampled_from(LANES), st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1),
    st.dictionaries(st.sampled_from(LANES), st.tuples(st.integers(0, 3), st.integers(0, 3))),
    st.integers(1, 9),
    st.sampled_from([0, 2, 4]),
)
def test_enough_places_are_read_whichever_ends_of_attempts_are_refused(
    stored: dict[str, tuple[int, int]], ends: dict[str, tuple[int, int]], wanted: int, lane_concurrency: int
) -> None:
    """``ends``: by lane, how many attempts are to end, and of how many that is refused."""
    limits = Limits(policy(lane_concurrency=lane_concurrency))
    ending = {
        lane: (min(ends[lane][0], running), ends[lane][1]) for lane, (running, _) in stored.items() if lane in ends
    }
    kept = {lane: max(0, count - refused) for lane, (count, refused) in ending.items()}
    planned = {lane: count for lane, (count, _) in ending.items() if count}
    state = TypeState("default", is_stored=True)
    for lane, (running, ready) in stored.items():
        state.lanes[lane] = LaneState(lane, LaneCounts(ready=ready, running=running))
    enough = Enough(wanted, wanted + sum(planned.values()), {("default", lane) for lane in planned})

    read = Counter(enough.of(turns_of(state, planned, limits, NOW), lambda lane: ("default", lane)))
    handed_out = Counter(islice(turns_of(state, kept, limits, NOW), wanted))

    assert handed_out <= read
    assert read.total() <= wanted + sum(planned.values())


@pytest.mark.parametrize(
    ("lane_holds", "state", "frees"),
    [
        (LaneHolds.JOB, JobState.RETRYING, True),
        (LaneHolds.JOB, JobState.FAILED, True),
        (LaneHolds.ATTEMPT, JobState.RETRYING, False),
        (LaneHolds.ATTEMPT, JobState.PROCESSING, True),
        (LaneHolds.JOB, JobState.QUEUED, False),
    ],
)
def test_servers_whose_calls_wait_are_told_of_each_place_that_is_given_up(
    lane_holds: LaneHolds, state: JobState, frees: bool
) -> None:
    job_types = JobTypes([policy(lane_concurrency=1, lane_holds=lane_holds)])
    job = a_job("job", "a", 1, state=state, claimed=state is JobState.PROCESSING)
    handing_out = HandingOut(job_types, set(), {}, NOW)

    handing_out.note(job, replace(job, state=JobState.CANCELLED, claimed=False))

    assert handing_out.freed == ({"default"} if frees else set())


STATES = st.sampled_from([*JobState])


@given(STATES, st.booleans(), st.booleans(), st.integers(0, 2))
def test_a_job_is_counted_in_one_place_at_most(state: JobState, held: bool, claimed: bool, attempt: int) -> None:
    job = Job(id="job", job_type="default", state=state, held=held, claimed=claimed, attempt=attempt)
    counts = counts_of(job)

    assert counts.ready + counts.running + counts.resting <= 1
    assert counts.returned <= counts.ready
    if state.is_final:
        assert counts == LaneCounts()


def test_a_job_that_comes_back_to_its_place_goes_before_all_others_of_its_lane() -> None:
    sequence = policy(lane_concurrency=2, lane_holds=LaneHolds.JOB)
    ready = ReadyJobs(JobTypes([sequence]))
    back = a_job("back", "a", 9, state=JobState.PROCESSING, attempt=2)
    others = [a_job(str(number), "a", number) for number in range(3)]
    jobs = {job.id: job for job in (*others, back)}
    state = TypeState("default", is_stored=True)
    state.lanes["a"] = LaneState("a", LaneCounts(ready=4, returned=1))
    ready.know(state)
    for job in jobs.values():
        ready.add(job)

    # One place is its own, the other is free.
    assert [job.id for job in ready.in_order(["default"], jobs, NOW)] == ["back", "0"]
