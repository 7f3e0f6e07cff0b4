"""Each validator of lanes and limits is green on a good history, and red on one that breaks its promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from .dispatch_promises import DISPATCH
from .history import (
    ANSWERED,
    REFUSED,
    UNKNOWN,
    Acquiring,
    Answer,
    Call,
    Configured,
    History,
    Pausing,
    Policy,
    Rate,
)
from .loading import load
from .test_dispatch_validators import OF_LANES
from .validators import broken, validate
from .written_log import written_log

LOG = """
     0 many1  QUEUED    -          QUEUED     0 -      type=fair lane=many
     0 many2  QUEUED    -          QUEUED     0 -      type=fair lane=many
     0 many3  QUEUED    -          QUEUED     0 -      type=fair lane=many
     0 few1   QUEUED    -          QUEUED     0 -      type=fair lane=few
     1 few1   STARTED   QUEUED     PROCESSING 1 w1     claimed
     1 many1  STARTED   QUEUED     PROCESSING 1 w1     claimed
     2 few1   COMPLETED PROCESSING COMPLETED  1 w1     claimed
     3 few2   QUEUED    -          QUEUED     0 -      type=fair lane=few
     4 few2   STARTED   QUEUED     PROCESSING 1 w2     claimed
     5 many2  STARTED   QUEUED     PROCESSING 1 w3     claimed
     6 few2   RELEASED  PROCESSING RETRYING   1 w2     claimed delay=0 hold=10
     6 few2   STARTED   RETRYING   PROCESSING 2 -
     7 many3  STARTED   QUEUED     PROCESSING 1 w4     claimed
    10 a1     QUEUED    -          QUEUED     0 -      type=narrow lane=a
    10 a2     QUEUED    -          QUEUED     0 -      type=narrow lane=a
    10 b1     QUEUED    -          QUEUED     0 -      type=narrow lane=b
    11 a1     STARTED   QUEUED     PROCESSING 1 w5     claimed
    11 b1     STARTED   QUEUED     PROCESSING 1 w5     claimed
    12 a2     STARTED   QUEUED     PROCESSING 1 by     claimed by_hand
    13 a2     COMPLETED PROCESSING COMPLETED  1 by     claimed
    14 b1     COMPLETED PROCESSING COMPLETED  1 w5     claimed
    15 a3     QUEUED    -          QUEUED     0 -      type=narrow lane=a
    15 a3     STARTED   QUEUED     PROCESSING 1 w6     claimed
    20 k1     QUEUED    -          QUEUED     0 -      type=keeping lane=k
    20 k2     QUEUED    -          QUEUED     0 -      type=keeping lane=k
    21 k1     STARTED   QUEUED     PROCESSING 1 w7     claimed
    22 k1     FAILED    PROCESSING FAILED     1 w7     claimed
    22 k1     RETRYING  FAILED     RETRYING   1 w7     claimed retries=1 delay=1
    23 k1     STARTED   RETRYING   PROCESSING 2 -      retries=1 ready=23 server
    24 k1     CLAIMED   PROCESSING PROCESSING 2 w8     claimed
    25 k1     COMPLETED PROCESSING COMPLETED  2 w8     claimed
    26 k2     STARTED   QUEUED     PROCESSING 1 w9     claimed
    30 p1     QUEUED    -          QUEUED     0 -      type=paced lane=p
    30 p2     QUEUED    -          QUEUED     0 -      type=paced lane=q
    30 p3     QUEUED    -          QUEUED     0 -      type=paced lane=p
    30 p1     STARTED   QUEUED     PROCESSING 1 w10    claimed
    30 p2     STARTED   QUEUED     PROCESSING 1 w10    claimed
    36 p3     STARTED   QUEUED     PROCESSING 1 w11    claimed
    40 late   QUEUED    -          QUEUED     0 -      type=fair lane=late
    41 later  QUEUED    -          QUEUED     0 -      type=fair lane=later
    45 later  STARTED   QUEUED     PROCESSING 1 w12    claimed
    50 late   STARTED   QUEUED     PROCESSING 1 w13    claimed
"""

_LINES = list(enumerate(LOG.strip().splitlines()))

AT = {tuple(line.split()[1:3]): number for number, line in reversed(_LINES)}
"""The line of the first such event of a job."""

POLICIES = {
    "narrow": Policy(concurrency=3, lane_concurrency=2),
    "keeping": Policy(base_delay=1_000_000, lane_concurrency=1, holds_jobs=True),
    "paced": Policy(rate=Rate(4, 10_000_000, 2), lane_rate=Rate(2, 10_000_000, 1)),
}


def good() -> History:
    """Lanes that take turns, one held; a limit that a Start by hand fills; a place that is kept; a rate; pauses."""
    log = written_log(LOG)
    acquires = []
    for worker in dict.fromkeys(entry.job["worker"] for entry in log):
        mine = [entry for entry in log if entry.job["worker"] == worker and "lease" in entry.job]
        claims = [entry for entry in mine if entry.event.type in {"STARTED", "CLAIMED"}]
        if claims:
            second = claims[0].time / 1_000_000
            call = Acquiring(worker, (claims[0].event.job_type,), 5, 0.0, "", ANSWERED, tries=1)
            call.invoked, call.returned = second - 0.1, second + 0.1
            jobs = [(entry.event.job_id, entry.attempt) for entry in claims]
            call.answers = [Answer(call.invoked, call.returned, jobs)]
            acquires.append(call)
    pauses = [
        Pausing("fair", None, True, ANSWERED, AT["late", "QUEUED"], 39.0, 39.1),
        Pausing("fair", None, False, ANSWERED, AT["later", "QUEUED"] + 1, 42.0, 42.1),
        Pausing("fair", "late", True, ANSWERED, AT["later", "QUEUED"] + 1, 43.0, 43.1),
        Pausing("fair", "late", False, UNKNOWN, 0, 48.0, 48.1),
    ]
    rows = {entry.event.job_id: dict(entry.job) for entry in log}
    return History(acquires=acquires, policies=dict(POLICIES), pauses=pauses, log=log, rows=rows)


def swap(history: History, one: tuple[str, str], other: tuple[str, str]) -> None:
    """Let two events come in the other order."""
    swap_lines(history, AT[one], AT[other])


def swap_lines(history: History, one: int, other: int) -> None:
    """Let two events come in the other order, by their places."""
    first, second = history.log[one], history.log[other]
    history.log[one], history.log[other] = second, first
    first.event.sequence, second.event.sequence = second.event.sequence, first.event.sequence
    first.time, second.time = second.time, first.time


def passes_over_the_lane_with_fewer_under_way(history: History) -> None:
    swap(history, ("few1", "STARTED"), ("many1", "STARTED"))
    swap(history, ("few2", "STARTED"), ("many2", "STARTED"))


def passes_over_the_lane_whose_turn_was_longer_ago(history: History) -> None:
    """Both have nothing under way."""
    began, ended = history.log[AT["few1", "STARTED"]], history.log[AT["few1", "COMPLETED"]]
    began.event.type = began.event.state = "CANCELLED"
    ended.event.job_id, ended.job["lane"] = "many1", "many"
    swap(history, ("few2", "STARTED"), ("many2", "STARTED"))


def forgets_that_a_hold_is_over(history: History) -> None:
    history.log[AT["few2", "RELEASED"]].detail["hold_lane"] = "0.5s"


def hands_out_beyond_the_limit_of_the_type(history: History) -> None:
    history.policies["narrow"] = replace(POLICIES["narrow"], concurrency=1)


def hands_out_beyond_the_limit_of_a_lane(history: History) -> None:
    history.policies["narrow"] = replace(POLICIES["narrow"], lane_concurrency=1)


def hands_out_beside_a_start_by_hand(history: History) -> None:
    """The one that was started by hand has not ended."""
    history.log[AT["a2", "COMPLETED"]].event.type = "PROGRESS"
    history.log[AT["a2", "COMPLETED"]].event.state = "PROCESSING"


def gives_away_the_place_of_a_job_that_waits(history: History) -> None:
    """The second job of the sequence begins while the first waits for its retry."""
    swap(history, ("k1", "CLAIMED"), ("k2", "STARTED"))


def hands_out_too_fast(history: History) -> None:
    history.policies["paced"] = Policy(rate=Rate(1, 10_000_000, 1))


def hands_out_a_lane_too_fast(history: History) -> None:
    history.policies["paced"] = replace(POLICIES["paced"], lane_rate=Rate(1, 10_000_000, 1))


def hands_out_what_is_paused(history: History) -> None:
    history.pauses[0].head = AT["few2", "STARTED"]


def hands_out_a_lane_that_is_paused(history: History) -> None:
    history.pauses[2].lane = "later"


def forgets_a_pause(history: History) -> None:
    """The type was never let go on."""
    del history.pauses[1]


BAD: list[tuple[str, Callable[[History], None]]] = [
    ("by_turns", passes_over_the_lane_with_fewer_under_way),
    ("by_turns", passes_over_the_lane_whose_turn_was_longer_ago),
    ("by_turns", forgets_that_a_hold_is_over),
    ("within_limits", hands_out_beyond_the_limit_of_the_type),
    ("within_limits", hands_out_beyond_the_limit_of_a_lane),
    ("within_limits", hands_out_beside_a_start_by_hand),
    ("within_limits", gives_away_the_place_of_a_job_that_waits),
    ("within_rates", hands_out_too_fast),
    ("within_rates", hands_out_a_lane_too_fast),
    ("paused", hands_out_what_is_paused),
    ("paused", hands_out_a_lane_that_is_paused),
    ("paused", forgets_a_pause),
]


def test_a_good_history_of_lanes_breaks_no_promise_of_dispatch() -> None:
    assert broken(good(), DISPATCH) == {}


def test_a_good_history_of_lanes_gives_their_validators_something_to_look_at() -> None:
    assert [name for name, verdict in validate(good(), OF_LANES).items() if not verdict.checked] == []


@pytest.mark.parametrize(("promise", "break_it"), BAD, ids=[f"{name}-{bad.__name__}" for name, bad in BAD])
def test_a_validator_of_lanes_goes_red_when_a_server(promise: str, break_it: Callable[[History], None]) -> None:
    history = good()
    break_it(history)

    assert promise in broken(history, OF_LANES)


def test_every_validator_of_lanes_has_a_bad_history() -> None:
    assert {name for name, _ in BAD} == OF_LANES


def test_either_configuration_holds_while_servers_are_restarted_with_another() -> None:
    history = good()
    hands_out_beyond_the_limit_of_a_lane(history)
    hands_out_too_fast(history)
    assert set(broken(history, OF_LANES)) == {"within_limits", "within_rates"}

    history.configured = [Configured(10, [history.policies, POLICIES]), Configured(len(LOG), [POLICIES])]

    assert broken(history, OF_LANES) == {}


def test_another_configuration_is_in_force_after_the_last_event_before_it() -> None:
    history = good()
    strict = POLICIES | {"narrow": replace(POLICIES["narrow"], lane_concurrency=1)}
    history.configured = [Configured(AT["a3", "STARTED"] + 1, [strict])]
    assert broken(history, OF_LANES) == {}

    history.configured[0].after -= 1

    assert set(broken(history, OF_LANES)) == {"within_limits"}


def test_replicas_may_pass_over_a_lane_of_which_nobody_knew_that_it_was_ready() -> None:
    history = good()
    passes_over_the_lane_with_fewer_under_way(history)
    history.store = "postgres"
    next(call for call in history.acquires if call.worker == "w3").invoked = 3.5
    assert broken(history, ["by_turns"]) == {}

    history.calls.append(Call("Create", "few2", ANSWERED, version=AT["few2", "QUEUED"] + 1, returned=3.1))

    assert set(broken(history, ["by_turns"])) == {"by_turns"}


IN_HAND = """
     0 a1     QUEUED    -          QUEUED     0 -      type=fair lane=a
     1 a2     QUEUED    -          QUEUED     0 -      type=fair lane=a within=8 level=HIGH
     2 b1     QUEUED    -          QUEUED     0 -      type=fair lane=b
     3 b2     QUEUED    -          QUEUED     0 -      type=fair lane=b
     4 b1     STARTED   QUEUED     PROCESSING 1 w1     claimed
     5 b1     COMPLETED PROCESSING COMPLETED  1 w1     claimed
     9 a2     CANCELLED QUEUED     CANCELLED  0 -      expired server
     9 b2     STARTED   QUEUED     PROCESSING 1 w2     claimed
"""


def test_replicas_may_pass_over_a_lane_while_the_first_of_its_jobs_expires() -> None:
    """One of them has read that job, and could not lock it."""
    history = History(store="postgres", log=written_log(IN_HAND))
    history.acquires = [Acquiring("w2", ("fair",), 1, 0.0, "", ANSWERED, tries=1, invoked=8.0, returned=9.5)]
    history.calls = [Call("Complete", "b1", ANSWERED, version=6, returned=5.5)]
    assert broken(history, ["by_turns"]) == {}

    history.log[6].actor = ""

    assert set(broken(history, ["by_turns"])) == {"by_turns"}


@pytest.mark.parametrize("outcome", [REFUSED, UNKNOWN])
def test_a_pause_without_an_answer_promises_nothing(outcome: str) -> None:
    history = good()
    hands_out_what_is_paused(history)
    history.pauses[0].outcome = outcome

    assert broken(history, ["paused"]) == {}


def test_an_unpause_that_may_come_late_ends_the_promise_of_a_pause() -> None:
    history = good()
    forgets_a_pause(history)
    history.pauses.insert(0, Pausing("fair", None, False, UNKNOWN, 0, 30.0, 30.1))

    assert broken(history, ["paused"]) == {}


def test_a_caller_that_waits_beside_a_free_place_is_found() -> None:
    """P11 where there are limits: when the place is free, and not before."""
    history = good()
    waiting = Acquiring("w20", ("keeping",), 1, 0.5, "", ANSWERED, tries=1, invoked=20.2, returned=20.7)
    waiting.answers = [Answer(20.2, 20.7, [])]
    history.acquires.append(waiting)
    history.calls.append(Call("Create", "k2", ANSWERED, version=AT["k2", "QUEUED"] + 1, returned=20.1))
    assert set(broken(history, ["conserved"])) == {"conserved"}

    # The server may have read the call after both jobs had gone.
    waiting.returned = 26.2
    assert broken(history, ["conserved"]) == {}

    waiting.invoked, waiting.returned = 24.3, 24.8

    assert broken(history, ["conserved"]) == {}


FORGOTTEN = """
     0 z1     QUEUED    -          QUEUED     0 -      type=fair lane=z
     1 z1     STARTED   QUEUED     PROCESSING 1 w1     claimed
     2 z1     COMPLETED PROCESSING COMPLETED  1 w1     claimed
     3 a1     QUEUED    -          QUEUED     0 -      type=fair lane=a
     4 z2     QUEUED    -          QUEUED     0 -      type=fair lane=z
     5 z2     STARTED   QUEUED     PROCESSING 1 w1     claimed
"""


def test_a_lane_that_was_empty_may_have_its_turn_before_one_that_came_later_and_not_before_one_that_waited() -> None:
    """A clean-up may have forgotten it meanwhile, but only if none waited for longer."""
    history = History(log=written_log(FORGOTTEN))
    assert broken(history, ["by_turns"]) == {}

    swap_lines(history, 2, 3)

    assert set(broken(history, ["by_turns"])) == {"by_turns"}


def test_a_history_with_lanes_survives_being_kept(tmp_path: Path) -> None:
    history = good()
    history.configured = [Configured(10, [history.policies, POLICIES])]
    history.save(tmp_path / "history.json")

    assert load(tmp_path / "history.json") == history
