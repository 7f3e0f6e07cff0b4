"""Each validator of dispatch is green on a good history, and red on one that breaks its promise."""

from __future__ import annotations

from collections.abc import Callable
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
    History,
    LogEntry,
    Policy,
)
from .loading import load
from .validators import broken, validate
from .written_log import log_time, written_log

LOG = """
     0 low      QUEUED    -          QUEUED     0 -      level=LOW
    15 plain    QUEUED    -          QUEUED     0 -
    18 urgent   QUEUED    -          QUEUED     0 -      level=HIGH
    30 delayed  QUEUED    -          QUEUED     0 -      ready=60 delay=30
    40 urgent   STARTED   QUEUED     PROCESSING 1 w1     claimed
    40 low      STARTED   QUEUED     PROCESSING 1 w1     claimed
    41 urgent   RELEASED  PROCESSING RETRYING   1 w1     claimed delay=0
    41 urgent   STARTED   RETRYING   PROCESSING 2 -
    42 urgent   CLAIMED   PROCESSING PROCESSING 2 w2     claimed
    60 delayed  READY     QUEUED     QUEUED     0 -      ready=60 server
    60 plain    STARTED   QUEUED     PROCESSING 1 w3     claimed
    61 low      FAILED    PROCESSING FAILED     1 w1     claimed
    61 low      RETRYING  FAILED     RETRYING   1 w1     claimed retries=1 delay=1
    62 low      STARTED   RETRYING   PROCESSING 2 -      retries=1 ready=62 server
    63 delayed  STARTED   QUEUED     PROCESSING 1 by-hand claimed by_hand ready=60
    64 keyed    QUEUED    -          QUEUED     0 -      key=final
    65 keyed    CANCELLED QUEUED     CANCELLED  0 -      key=final
    66 again    QUEUED    -          QUEUED     0 -      key=final
    67 brief    QUEUED    -          QUEUED     0 -      within=2
    70 brief    CANCELLED QUEUED     CANCELLED  0 -      within=2 expired server
"""

OF_LANES = {"by_turns", "within_limits", "within_rates", "paused"}
"""Promises that are broken elsewhere: see ``test_lane_validators``."""

STEP_S = 10
"""A step of priority is worth that."""


def entries() -> list[LogEntry]:
    return written_log(LOG)


def good() -> History:
    """Jobs of three priorities, one delayed, one released, one retried, one expired, and a key used again."""
    lost = Acquiring("w1", ("kind",), 2, 0.0, "request-1", ANSWERED, tries=2, invoked=40.0, returned=41.0)
    lost.answers = [Answer(40.5, 40.6, [("urgent", 1), ("low", 1)])]
    second = Acquiring("w2", ("kind",), 1, 30.0, "", ANSWERED, tries=1, invoked=41.9, returned=42.1)
    second.answers = [Answer(41.9, 42.1, [("urgent", 2)])]
    third = Acquiring("w3", ("kind",), 1, 0.0, "", ANSWERED, tries=1, invoked=59.9, returned=60.1)
    third.answers = [Answer(59.9, 60.1, [("plain", 1)])]
    empty = Acquiring("w4", ("other",), 1, 1.0, "", ANSWERED, tries=1, invoked=50.0, returned=51.0)
    empty.answers = [Answer(50.0, 51.0, [])]
    calls = [
        Call("Start", "delayed", ANSWERED, "", "", 1, 62.9, 63.1, "OK", "", 15, 1, "PROCESSING"),
        Call("Create", "again", ANSWERED, "", "", 1, 65.9, 66.1, "OK", "", 18, 0, "QUEUED"),
        Call("Start", "urgent", REFUSED, "", "", 1, 43.0, 43.1, "", "TRANSITION_NOT_ALLOWED"),
    ]
    log = entries()
    return History(
        calls=calls,
        acquires=[lost, second, third, empty],
        policies={"kind": Policy(priority_step=STEP_S * 1_000_000)},
        log=log,
        rows={entry.event.job_id: dict(entry.job) for entry in log},
    )


def gives_an_attempt_to_another(history: History) -> None:
    history.acquires[3].answers = [Answer(50.0, 51.0, [("urgent", 2)])]


def gives_what_it_never_claimed(history: History) -> None:
    history.acquires[3].answers = [Answer(50.0, 51.0, [("again", 1)])]


def gives_a_start_what_an_acquire_has(history: History) -> None:
    history.calls.append(Call("Start", "urgent", ANSWERED, version=9, attempt=2, state="PROCESSING"))


def hands_out_what_came_later(history: History) -> None:
    """The second of two of one priority first."""
    history.log[0].job["priority"] = "PRIORITY_BACKGROUND"


def lets_urgent_work_overtake_for_ever(history: History) -> None:
    history.log[2].job |= {"create_time": log_time(35), "ready_time": log_time(35)}


def begins_a_delayed_job(history: History) -> None:
    history.log[14].time = 59_000_000
    history.log[9].event.type = "USAGE"


def delays_for_too_short(history: History) -> None:
    history.log[3].job["ready_time"] = log_time(31)


def ends_a_delay_too_early(history: History) -> None:
    history.log[9].time = 59_000_000


def resumes_too_early(history: History) -> None:
    history.log[13].time = 61_500_000


def expires_too_early(history: History) -> None:
    history.log[19].time = 68_000_000


def expires_what_runs(history: History) -> None:
    history.log[18].event.state = "PROCESSING"


def forgets_what_it_gave(history: History) -> None:
    """The repeat returns half of it."""
    history.acquires[0].answers[0].jobs.pop()


def gives_more_to_the_repeat(history: History) -> None:
    history.log[10].job["worker"] = "w1"


def gives_the_repeat_what_has_ended(history: History) -> None:
    """Another has been told that the attempt was released before the repeat was sent."""
    history.calls.append(Call("Release", "urgent", ANSWERED, "", "", 1, 40.1, 40.2, "OK", "", 8, 2, "PROCESSING"))


def takes_back_what_was_delivered(history: History) -> None:
    history.log[6].detail["reason"] = "not delivered"


def counts_a_release_as_a_retry(history: History) -> None:
    history.log[6].job["retry_count"] = 1


def sends_who_was_released_to_the_end(history: History) -> None:
    history.log[7].job["ready_time"] = log_time(41)


def waits_longer_after_releases(history: History) -> None:
    history.log[12].detail["delay"] = "2s"


def allows_one_release_too_many(history: History) -> None:
    history.releases_max = 0


def lets_a_caller_wait_beside_work(history: History) -> None:
    empty = history.acquires[3]
    empty.job_types, empty.invoked, empty.answers = ("kind",), 70.0, [Answer(70.0, 71.0, [])]


def refuses_a_start_of_what_is_ready(history: History) -> None:
    history.calls.append(Call("Start", "again", REFUSED, "", "", 1, 67.0, 67.1, "", "TRANSITION_NOT_ALLOWED"))


def tells_a_plain_job_something_new(history: History) -> None:
    history.log[16].event.type = "RELEASED"


def has_two_of_a_key(history: History) -> None:
    history.log[16].event.state = "QUEUED"


BAD: list[tuple[str, Callable[[History], None]]] = [
    ("handed_once", gives_an_attempt_to_another),
    ("handed_once", gives_what_it_never_claimed),
    ("handed_once", gives_a_start_what_an_acquire_has),
    ("in_turn", hands_out_what_came_later),
    ("aged", lets_urgent_work_overtake_for_ever),
    ("not_early", begins_a_delayed_job),
    ("not_early", delays_for_too_short),
    ("not_early", ends_a_delay_too_early),
    ("not_early", resumes_too_early),
    ("not_early", expires_too_early),
    ("not_early", expires_what_runs),
    ("repeatable", forgets_what_it_gave),
    ("repeatable", gives_more_to_the_repeat),
    ("repeatable", gives_the_repeat_what_has_ended),
    ("repeatable", takes_back_what_was_delivered),
    ("released", counts_a_release_as_a_retry),
    ("released", sends_who_was_released_to_the_end),
    ("released", waits_longer_after_releases),
    ("released", allows_one_release_too_many),
    ("conserved", lets_a_caller_wait_beside_work),
    ("by_hand", refuses_a_start_of_what_is_ready),
    ("by_hand", tells_a_plain_job_something_new),
    ("alone", has_two_of_a_key),
]


def test_a_good_history_breaks_no_promise_of_dispatch() -> None:
    assert broken(good(), DISPATCH) == {}


def test_a_good_history_gives_every_validator_of_dispatch_something_to_look_at() -> None:
    assert {name for name, verdict in validate(good(), DISPATCH).items() if not verdict.checked} == OF_LANES


@pytest.mark.parametrize(("promise", "break_it"), BAD, ids=[f"{name}-{bad.__name__}" for name, bad in BAD])
def test_a_validator_of_dispatch_goes_red_when_a_server(promise: str, break_it: Callable[[History], None]) -> None:
    history = good()
    break_it(history)

    assert promise in broken(history, DISPATCH)


def test_every_validator_of_dispatch_has_a_bad_history() -> None:
    assert {name for name, _ in BAD} | OF_LANES == set(DISPATCH)


def shared() -> History:
    """The same, as replicas would have left it."""
    history = good()
    history.store = "postgres"
    return history


def test_what_nobody_knew_to_be_ready_may_be_missed_by_a_replica() -> None:
    history = shared()
    hands_out_what_came_later(history)
    assert broken(history, ["in_turn"]) == {}

    history.calls.append(Call("Create", "plain", ANSWERED, version=2, returned=20.0, state="QUEUED"))

    assert list(broken(history, ["in_turn"])) == ["in_turn"]


@pytest.mark.parametrize("outcome", [REFUSED, UNKNOWN])
def test_what_somebody_has_in_hand_may_be_missed_by_a_replica(outcome: str) -> None:
    history = shared()
    hands_out_what_came_later(history)
    history.calls.append(Call("Create", "plain", ANSWERED, version=2, returned=20.0, state="QUEUED"))
    began = 39.0 if outcome == UNKNOWN else 39.9
    history.calls.append(Call("Complete", "plain", outcome, invoked=began, returned=began + 0.2, reason="ANY"))

    assert broken(history, ["in_turn"]) == {}


def test_what_a_call_without_an_answer_asked_for_may_be_missed_by_a_replica() -> None:
    """Its server was frozen with the job in hand, and what it did was never kept."""
    history = shared()
    hands_out_what_came_later(history)
    history.calls.append(Call("Create", "plain", ANSWERED, version=2, returned=20.0, state="QUEUED"))
    lost = Acquiring("w9", ("kind",), 1, 0.0, "", UNKNOWN, tries=1, invoked=39.0, returned=39.2)
    history.acquires.append(lost)
    assert broken(history, ["in_turn"]) == {}

    lost.job_types = ("another",)

    assert list(broken(history, ["in_turn"])) == ["in_turn"]


def test_what_another_due_timer_looked_at_may_be_missed_by_a_replica() -> None:
    history = shared()
    hands_out_what_came_later(history)
    history.log[1].actor = "server"
    history.calls.append(Call("Create", "other", ANSWERED, version=2, returned=38.0, state="QUEUED"))
    assert list(broken(history, ["in_turn"])) == ["in_turn"]

    history.calls[-1].returned = 39.5

    assert broken(history, ["in_turn"]) == {}


def test_replicas_find_in_the_calm_what_others_made_ready() -> None:
    history = shared()
    history.calm = (64.0, 90.0)
    waiting = Acquiring("w5", ("kind",), 1, 30.0, "", ANSWERED, tries=1, invoked=64.5, returned=80.0)
    waiting.answers = [Answer(64.5, 80.0, [])]
    history.acquires.append(waiting)
    assert list(broken(history, ["conserved"])) == ["conserved"]

    waiting.returned = 68.0

    assert broken(history, ["conserved"]) == {}


def test_a_history_with_acquires_survives_being_kept(tmp_path: Path) -> None:
    history = good()
    history.calm = (1.0, 2.0)
    history.save(tmp_path / "history.json")

    assert load(tmp_path / "history.json") == history
