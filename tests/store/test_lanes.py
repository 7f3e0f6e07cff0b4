"""What a store keeps of lanes, and in which order it finds them. The same on every backend."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate_server.domain.job import INT64_MAX, JobState
from jobstate_server.domain.lanes import LaneCounts
from jobstate_server.domain.plan import TypePause
from jobstate_server.domain.reads import LaneRange, Reads, StateOf
from jobstate_server.domain.statistics import Measure
from jobstate_server.domain.turns import TypeState
from jobstate_server.domain.waiting import Priority, WaitReason
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import Changes, DispatchChange, LaneChange

from .support import a_job, keep, keep_jobs

NOW = 1_000


def lane(name: str, **values: Any) -> LaneChange:
    """What is added to a lane of ``type``."""
    fields: dict[str, Any] = dict.fromkeys(LaneChange._fields[2:], 0) | {"tolerance": -1, "hold_reason": ""}
    return LaneChange("type", name, **(fields | values))


def keep_lanes(store: Store, *lanes: LaneChange, now: int = NOW) -> None:
    """Write these, and the sums of their type."""
    sums = [sum(column) for column in zip(*(change[2:6] for change in lanes if change.lane), strict=True)] or [0] * 4
    turn_time = max(change.turn_time for change in lanes)
    keep(store, Changes(lanes=list(lanes), dispatch=[DispatchChange._make(("type", *sums, turn_time, 0))], now=now))


def state(store: Store, lanes_max: int = 100, under_way_max: int = INT64_MAX, **options: Any) -> TypeState | None:
    """What a transaction finds of ``type``."""
    fields: dict[str, Any] = {"holds_jobs": False, "is_limited": False, "lanes": frozenset[str]()} | options
    with store.transaction() as transaction:
        transaction.load(Reads())
        found = transaction.hand_out_states([StateOf("type", lanes_max, under_way_max, **fields)])
        assert found.turns == {"type"}
        return found.states.get("type")


def names(found: TypeState | None) -> list[str]:
    """The lanes that were found, in order, without the empty one, which always is."""
    assert found is not None
    return [name for name in found.lanes if name]


def test_nothing_is_found_of_a_type_without_lanes_limits_and_pauses(store: Store) -> None:
    keep_jobs(store, a_job("job"))

    assert state(store) is None


def test_lanes_are_found_in_the_order_of_their_turns(store: Store) -> None:
    keep_lanes(
        store,
        lane("busy", ready=1, running=2),
        lane("late", ready=1, turn_time=9),
        lane("early", ready=1, turn_time=3),
        lane("new b", ready=1),
        lane("new a", ready=1),
        lane("nothing", running=1),
    )

    assert names(state(store)) == ["new a", "new b", "early", "late", "busy"]
    assert names(state(store, lanes_max=3)) == ["new a", "new b", "early"]
    assert names(state(store, under_way_max=2)) == ["new a", "new b", "early", "late"]
    assert names(state(store, lanes_max=1, lanes=frozenset({"nothing", "unknown"}))) == ["new a", "nothing", "unknown"]


def test_where_jobs_hold_their_place_those_at_rest_are_under_way(store: Store) -> None:
    keep_lanes(store, lane("rests", ready=1, resting=2), lane("runs", ready=1, running=1))

    assert names(state(store)) == ["rests", "runs"]
    assert names(state(store, holds_jobs=True)) == ["runs", "rests"]
    assert names(state(store, holds_jobs=True, under_way_max=2)) == ["runs"]


def test_a_lane_is_read_if_it_has_ready_jobs_or_in_any_case(store: Store) -> None:
    keep_lanes(store, lane("first", ready=1), lane("runs", running=1), lane("waits", ready=1, running=9))

    some = frozenset({"runs", "waits", "unknown"})

    assert names(state(store, lanes_max=1, ready_lanes=some)) == ["first", "waits"]
    assert sorted(names(state(store, lanes_max=1, lanes=some))) == ["first", "runs", "unknown", "waits"]


def test_lanes_that_are_new_are_written_beside_others(store: Store) -> None:
    keep_lanes(store, *[lane(f"{number:03}", ready=1) for number in range(0, 300, 3)])
    keep_lanes(store, *[lane(f"{number:03}", ready=1) for number in range(300)])
    found = state(store, lanes_max=1_000)

    assert found is not None
    assert [found.lanes[name].counts.ready for name in sorted(names(found))] == [2, 1, 1] * 100


def test_what_is_added_to_a_lane_adds_up(store: Store) -> None:
    keep_lanes(store, lane("a", ready=5, returned=2, running=1, turn_time=7))
    keep_lanes(store, lane("a", ready=-1, returned=-1, running=1, resting=3, turn_time=4))
    found = state(store)

    assert found is not None
    assert found.lanes["a"].counts == LaneCounts(4, 1, 2, 3)
    assert (found.lanes["a"].turn_time, found.turn_time) == (7, 7)


def test_the_empty_lane_has_what_the_tallies_have_less_the_other_lanes(store: Store) -> None:
    stored = {JobState.QUEUED: 10, JobState.PROCESSING: 6, JobState.RETRYING: 3, JobState.FAILED: 2}
    tallies = {("type", Measure.STORED, int(bucket)): count for bucket, count in stored.items()}
    tallies |= {("type", Measure.HELD, int(WaitReason.TIME)): 1, ("type", Measure.UNCLAIMED, 0): 2}
    keep(store, Changes(tallies=tallies))
    keep_lanes(store, lane("a", ready=3, returned=1, running=2, resting=4))
    found = state(store)

    assert found is not None
    assert found.counts == LaneCounts(ready=11, returned=2, running=4, resting=5)
    assert found.lanes[""].counts == LaneCounts(ready=8, returned=1, running=2, resting=1)


def test_a_hold_closes_a_lane_until_its_time_and_a_shorter_one_changes_nothing(store: Store, clock: Any) -> None:
    clock.advance(NOW)
    now = state_now(store)
    keep_lanes(store, lane("a", ready=1, held_until=now + 50, hold_reason="429"), lane("b", ready=1), now=now)
    keep_lanes(store, lane("a", held_until=now + 20, hold_reason="shorter"), now=now)
    found = state(store)
    assert found is not None
    assert names(found) == ["b"]

    keep_lanes(store, lane("a"), now=now + 50)

    assert names(state(store)) == ["a", "b"]


def state_now(store: Store) -> int:
    """The store's time."""
    with store.transaction() as transaction:
        transaction.load(Reads())
        return transaction.now


def test_a_lane_is_closed_as_soon_as_its_rate_is_used_up_and_open_again_by_its_time(store: Store) -> None:
    now = state_now(store)
    # A hand-out each 60 s, of which two may come at once.
    advance, tolerance = 60_000_000, 60_000_000
    first = lane("a", ready=9, advance=advance, tolerance=tolerance)
    keep_lanes(store, first, now=now)
    assert names(state(store)) == ["a"]
    keep_lanes(store, first, now=now)
    found = state(store)
    assert found is not None
    assert names(found) == []
    assert found.opens == now + 60_000_000

    # The settings have no rate any more.
    with store.transaction() as transaction:
        transaction.reopen_lanes()

    assert names(state(store)) == ["a"]


def test_a_pause_takes_a_lane_out_of_the_turns(store: Store) -> None:
    keep_lanes(store, lane("a", ready=1), lane("b", ready=1))
    keep(store, Changes(pauses=[TypePause("type", "a", True, "invoice"), TypePause("type", None, True, "all")]))
    found = state(store, lanes=frozenset({"a"}))
    assert found is not None
    assert (names(found), found.paused, found.lanes["a"].paused) == (["b", "a"], True, True)

    keep(store, Changes(pauses=[TypePause("type", "a", False, ""), TypePause("type", None, False, "")]))

    found = state(store)
    assert found is not None
    assert (names(found), found.paused) == (["a", "b"], False)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_first_jobs_of_each_lane_are_found(store: Store, count: int) -> None:
    jobs = [
        a_job(
            f"{name}{number}", lane=name, ready_time=number, level=Priority.NORMAL, create_sequence=number * 10 + place
        )
        for place, name in enumerate(("a", "b", ""), 1)
        for number in range(5)
    ]
    keep_jobs(store, *jobs, a_job("a high", lane="a", level=Priority.HIGH, ready_time=4), a_job("held", held=True))
    ranges = [LaneRange("type", name, 10, count, holds_jobs=False) for name in ("a", "")]
    with store.transaction() as transaction:
        transaction.load(Reads())
        found = sorted(transaction.ready_places(ranges), key=lambda place: (place.lane, place.score))
        by_lane = {name: [place.job_id for place in found if place.lane == name] for name in ("a", "b", "")}
        taken = transaction.take_ready([place.job_id for place in found]).jobs

    assert by_lane["b"] == []
    assert by_lane[""][:count] == ["0", "1", "2", "3", "4"][:count]
    assert by_lane["a"][:count] == ["a high", "a0", "a1", "a2", "a3", "a4"][:count]
    assert [job.id for job in taken] == [place.job_id for place in found]


@pytest.mark.parametrize("holds_jobs", [False, True])
def test_all_ready_jobs_of_a_lane_are_found_at_once(store: Store, holds_jobs: bool) -> None:
    levels = [*Priority]
    jobs = [a_job(f"{number}", lane="a", level=levels[number % 5], ready_time=number) for number in range(7)]
    back = a_job("back", lane="a", ready_time=9, state=JobState.PROCESSING, attempt=2)
    keep_jobs(store, *jobs, back, a_job("held", lane="a", held=True), a_job("other", lane="b"))
    with store.transaction() as transaction:
        transaction.load(Reads())
        found = transaction.ready_places([LaneRange("type", "a", 10, 8, holds_jobs, is_all=True)])

    assert sorted((place.job_id, place.lane, place.attempt) for place in found) == sorted(
        [*((job.id, "a", 0) for job in jobs), ("back", "a", 2)]
    )
    assert {place.score for place in found} == {job.ready_time - 10 * job.level for job in [*jobs, back]}


def test_jobs_that_come_back_are_found_however_many_wait_before_them(store: Store) -> None:
    waiting = [a_job(f"{number:03}", lane="a", ready_time=number, create_sequence=number + 1) for number in range(50)]
    back = a_job("back", lane="a", ready_time=99, state=JobState.PROCESSING, attempt=2, create_sequence=99)
    keep_jobs(store, *waiting, back)
    with store.transaction() as transaction:
        transaction.load(Reads())
        places = transaction.ready_places([LaneRange("type", "a", 0, 1, holds_jobs=True)])

    assert {"000", "back"} <= {place.job_id for place in places}
    assert len(places) <= 3


def test_lanes_in_which_nothing_is_left_are_forgotten_and_the_type_with_the_last(store: Store) -> None:
    now = state_now(store)
    keep_lanes(
        store,
        lane("idle"),
        lane("idle too", turn_time=5),
        lane("ready", ready=1, turn_time=9),
        lane("held", held_until=now + 10**9),
        now=now,
    )
    keep(store, Changes(pauses=[TypePause("type", "paused", True, "")]))
    with store.transaction() as transaction:
        assert [transaction.forget_idle_lanes(1) for _ in range(3)] == [1, 1, 0]
    assert names(state(store, lanes=frozenset({"paused", "held", "idle"}))) == ["ready", "held", "paused", "idle"]

    keep_lanes(store, lane("ready", ready=-1), lane("held", held_until=0), now=now)
    keep(store, Changes(pauses=[TypePause("type", "paused", False, "")]))
    with store.transaction() as transaction:
        assert transaction.forget_idle_lanes(9) == 2
    assert state(store) is not None


@pytest.mark.parametrize(
    ("waits", "is_kept"),
    [
        ({"ready": 1, "turn_time": 3}, True),
        ({"ready": 1, "turn_time": 3, "held_until": NOW - 1, "now": NOW - 2}, True),
        ({"ready": 1, "turn_time": 9}, False),
        ({"ready": 1, "turn_time": 3, "held_until": 10**18}, False),
        ({"running": 1, "turn_time": 3}, False),
    ],
)
def test_a_lane_is_forgotten_when_no_other_waits_that_has_had_no_turn_since(
    store: Store, waits: dict[str, int], is_kept: bool
) -> None:
    """Otherwise it would have its next turn before that one, although it had the last."""
    now = waits.pop("now", NOW)
    keep_lanes(store, lane("idle", turn_time=5), lane("waits", **waits), now=now)

    with store.transaction() as transaction:
        assert transaction.forget_idle_lanes(9) == (not is_kept)


@pytest.mark.parametrize(("turn_time", "is_kept"), [(0, True), (3, True), (9, False)])
def test_a_lane_is_not_forgotten_while_the_empty_one_waits_for_its_turn(
    store: Store, turn_time: int, is_kept: bool
) -> None:
    keep(store, Changes(tallies={("type", Measure.STORED, int(JobState.QUEUED)): 1}))
    keep_lanes(store, lane("idle", turn_time=5), *([lane("", turn_time=turn_time)] if turn_time else []))

    with store.transaction() as transaction:
        assert transaction.forget_idle_lanes(9) == (not is_kept)


def test_the_empty_lane_keeps_its_turn_for_as_long_as_there_are_others(store: Store) -> None:
    keep_lanes(store, lane("", turn_time=5), lane("waits", ready=1), now=NOW)
    with store.transaction() as transaction:
        assert transaction.forget_idle_lanes(9) == 0
    found = state(store)
    assert found is not None
    assert found.lanes[""].turn_time == 5

    keep_lanes(store, lane("waits", ready=-1), now=NOW)
    with store.transaction() as transaction:
        assert transaction.forget_idle_lanes(9) == 1
    assert state(store) is None


def test_readers_find_lanes_in_the_order_of_turns_page_by_page(store: Store, reader: Reader) -> None:
    keep_lanes(
        store,
        lane("c", ready=1),
        lane("a", ready=2, running=1),
        lane("b", ready=1, turn_time=5),
        lane("idle"),
        lane("only runs", running=3),
    )
    keep(store, Changes(pauses=[TypePause("type", "b", True, "why")]))

    first = reader.lanes_in_turn("type", None, 1, holds_jobs=False)
    assert [record.state.lane for record in first] == ["c"]
    rest = reader.lanes_in_turn("type", (0, 0, "c"), 9, holds_jobs=False)
    assert [(record.state.lane, record.state.counts.ready) for record in rest] == [("a", 2)]
    others = reader.lanes_without_turn("type", "", 9, NOW, holds_jobs=False)
    assert [(record.state.lane, record.pause_reason) for record in others] == [("b", "why"), ("only runs", "")]
    later = reader.lanes_without_turn("type", "b", 9, NOW, holds_jobs=False)
    assert [record.state.lane for record in later] == ["only runs"]
    assert reader.lanes_before("type", (1, 0, "z"), 9, holds_jobs=False) == 2
    assert reader.lanes_before("type", (1, 0, "z"), 1, holds_jobs=False) == 1
    assert reader.lane_record("type", "b").pause_reason == "why"
    assert reader.lane_record("type", "none").state.counts == LaneCounts()
    assert reader.type_record("other").state.is_stored is False


def test_a_lane_that_only_rests_is_told_of_where_jobs_hold_their_place(store: Store, reader: Reader) -> None:
    keep_lanes(
        store,
        lane("held", held_until=NOW + 9),
        lane("no longer", held_until=NOW + 5),
        lane("rests", resting=1),
        now=NOW,
    )

    def told(now: int, *, holds_jobs: bool) -> list[str]:
        return [record.state.lane for record in reader.lanes_without_turn("type", "", 9, now, holds_jobs=holds_jobs)]

    assert told(NOW + 5, holds_jobs=False) == ["held"]
    assert told(NOW + 9, holds_jobs=False) == []
    assert told(NOW + 9, holds_jobs=True) == ["rests"]


def test_the_oldest_ready_job_is_found_over_all_lanes(store: Store, reader: Reader) -> None:
    keep_lanes(store, *[lane(name, ready=1) for name in "abc"])
    keep_jobs(
        store,
        a_job("a", lane="a", ready_time=5),
        a_job("b", lane="b", ready_time=3, level=Priority.LOW),
        a_job("later", lane="b", ready_time=4, level=Priority.URGENT),
        a_job("held", lane="c", ready_time=1, held=True),
    )

    assert reader.oldest_ready("type") == 3
    assert reader.oldest_ready_in("type", ["a", "b", "c", "d", ""]) == {"a": 5, "b": 3}
    keep_jobs(store, a_job("empty", ready_time=7))
    assert reader.oldest_ready_in("type", ["", "a"]) == {"": 7, "a": 5}
    assert reader.oldest_ready_in("type", []) == {}
