"""Each validator of needs and groups is green on a good history, and red on one that breaks its promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .history import ANSWERED, Call, History, LogEntry
from .relation_promises import RELATIONS
from .validators import broken, validate
from .world import World
from .written_log import written_log

LOG = """
     0 parent   QUEUED             -          QUEUED             0 -
     0 other    QUEUED             -          QUEUED             0 -
     1 child    QUEUED             -          QUEUED             0 -  needs=parent,other:NOT_COMPLETED waits=1
     1 lost     QUEUED             -          QUEUED             0 -  needs=other waits=1
     1 below    QUEUED             -          QUEUED             0 -  needs=lost:FINAL waits=1
     2 parent   STARTED            QUEUED     PROCESSING         1 w1 claimed
     3 parent   COMPLETED          PROCESSING COMPLETED          1 w1 claimed
     4 other    CANCELLED          QUEUED     CANCELLED          0 -
     5 child    READY              QUEUED     QUEUED             0 -  ready=5 server
     5 lost     CANCELLED          QUEUED     CANCELLED          0 -  need=other server
     6 below    READY              QUEUED     QUEUED             0 -  ready=6 server
     7 at-once  QUEUED             -          QUEUED             0 -  needs=parent
     7 never    QUEUED             -          QUEUED             0 -  needs=other
     7 never    CANCELLED          QUEUED     CANCELLED          0 -  need=other
     8 group    QUEUED             -          QUEUED             0 -  type=groups group=0:CANCEL
     8 group    STARTED            QUEUED     PROCESSING         1 -  claimed by_hand
     8 first    QUEUED             -          QUEUED             0 -  in=group
     9 first    STARTED            QUEUED     PROCESSING         1 w2 claimed
     9 second   QUEUED             -          QUEUED             0 -  in=group by=first:1
    10 inner    QUEUED             -          QUEUED             0 -  type=groups group=0:FINISH in=group
    10 inner    STARTED            QUEUED     PROCESSING         1 -  claimed by_hand
    10 deep     QUEUED             -          QUEUED             0 -  in=inner
    11 first    PROGRESS           PROCESSING PROCESSING         1 w2 claimed tokens=3
    11 group    PROGRESS           PROCESSING PROCESSING         1 -  claimed by_hand members=3:0:0:0:3
    11 deep     STARTED            QUEUED     PROCESSING         1 w3 claimed
    12 deep     COMPLETED          PROCESSING COMPLETED          1 w3 claimed tokens=4
    12 inner    COMPLETED          PROCESSING COMPLETED          1 -  claimed by_hand members=1:1:0:0:4
    13 group    PROGRESS           PROCESSING PROCESSING         1 -  claimed by_hand members=3:1:0:0:7
    14 first    FAILED             PROCESSING FAILED             1 w2 claimed
    14 first    PERMANENTLY_FAILED FAILED     PERMANENTLY_FAILED 1 w2 claimed
    15 second   CANCELLED          QUEUED     CANCELLED          0 -  stopped=group server
    16 group    FAILED             PROCESSING FAILED             1 -  claimed by_hand members=3:1:1:1:7
    16 group    PERMANENTLY_FAILED FAILED     PERMANENTLY_FAILED 1 -  claimed by_hand members=3:1:1:1:7
    17 ended    QUEUED             -          QUEUED             0 -  type=groups group=-1:FINISH
    17 ended    STARTED            QUEUED     PROCESSING         1 -  claimed by_hand
    18 ended    COMPLETED          PROCESSING COMPLETED          1 -  claimed by_hand members=0:0:0:0:0
    19 above    QUEUED             -          QUEUED             0 -  type=groups group=0:CANCEL
    19 above    STARTED            QUEUED     PROCESSING         1 -  claimed by_hand
    19 left     QUEUED             -          QUEUED             0 -  in=above
    20 above    CANCELLED          PROCESSING CANCELLED          1 -  claimed by_hand members=1:0:0:0:0
    21 left     CANCELLED          QUEUED     CANCELLED          0 -  stopped=above server
    22 deep     DELETED            COMPLETED  COMPLETED          1 w3 claimed
"""


def numbered(job_id: str, type_: str, log: list[LogEntry]) -> LogEntry:
    """The first event of a type of a job."""
    return next(entry for entry in log if (entry.event.job_id, entry.event.type) == (job_id, type_))


def lines() -> list[str]:
    return LOG.strip("\n").splitlines()


def good(*more: str) -> History:
    """A graph of needs, a group with too many failures that has one within, an empty one, and one that is cancelled."""
    log = written_log("\n".join([*lines(), *more]))
    rows = {entry.event.job_id: dict(entry.job) for entry in log if entry.event.job_id != "deep"}
    for group_id, since in (
        ("group", {"stopping": True}),
        ("inner", {"closed": True}),
        ("ended", {"closed": True}),
        ("above", {"stopping": True, "cancelled": "1"}),
    ):
        rows[group_id]["members"] = rows[group_id]["members"] | since
    calls = [
        Call("CloseGroup", job_id, ANSWERED, invoked=at - 0.2, returned=at - 0.1, changes=False)
        for job_id, at in (("inner", 12.0), ("ended", 18.0))
    ]
    return History(
        calls=calls,
        log=log,
        rows=rows,
        settled=len(log),
        needs={
            "child": [
                {"job_id": "parent", "condition": "COMPLETED", "met": True, "state": "COMPLETED"},
                {"job_id": "other", "condition": "NOT_COMPLETED", "met": True, "state": "CANCELLED"},
            ],
            "lost": [{"job_id": "other", "condition": "COMPLETED", "met": False, "state": "CANCELLED"}],
        },
    )


def of(history: History, job_id: str, type_: str) -> LogEntry:
    return numbered(job_id, type_, history.log)


def moved(history: History, job_id: str, type_: str, place: int) -> None:
    """Let an event come at another place of the log."""
    entry = of(history, job_id, type_)
    history.log.remove(entry)
    history.log.insert(place, entry)
    for sequence, each in enumerate(history.log, start=1):
        each.event.sequence = sequence


def makes_ready_too_early(history: History) -> None:
    """When one of two is met."""
    moved(history, "child", "READY", 7)


def begins_what_waits(history: History) -> None:
    history.log[8].event.type, history.log[8].event.state = "STARTED", "PROCESSING"
    history.log[3].event.sequence, history.log[8].event.sequence = 9, 4
    history.log[3], history.log[8] = history.log[8], history.log[3]


def makes_ready_what_can_never_begin(history: History) -> None:
    of(history, "lost", "CANCELLED").event.type = "READY"


def makes_ready_twice(history: History) -> None:
    of(history, "below", "READY").event.job_id = "child"


def cancels_what_could_begin(history: History) -> None:
    entry = of(history, "lost", "CANCELLED")
    entry.job["cancel_cause_id"] = "parent"


def tells_another_cause(history: History) -> None:
    of(history, "lost", "CANCELLED").detail["cause_id"] = "parent"


def tells_that_all_is_met_too_early(history: History) -> None:
    """When one of two is met."""
    moved(history, "child", "READY", 7)
    entry = of(history, "child", "READY")
    entry.event.type, entry.job["wait_reason"] = "WAITING", "WAIT_REASON_TIME"


def forgets_at_creation_what_has_ended(history: History) -> None:
    of(history, "at-once", "QUEUED").job["wait_reason"] = "WAIT_REASON_NEEDS"


def forgets_at_creation_what_has_not_ended(history: History) -> None:
    of(history, "child", "QUEUED").job["wait_reason"] = "WAIT_REASON_TURN"


def leaves_what_can_never_begin(history: History) -> None:
    of(history, "never", "CANCELLED").event.type = "USAGE"


def lets_a_job_need_nothing_that_is_there(history: History) -> None:
    of(history, "at-once", "QUEUED").job["metadata"]["needs"] = {"nobody": "COMPLETED"}


def deletes_what_is_needed(history: History) -> None:
    of(history, "deep", "DELETED").event.job_id = "parent"


def lets_a_ready_job_wait_for_ever(history: History) -> None:
    of(history, "child", "READY").event.type = "USAGE"


def lets_an_impossible_job_wait_for_ever(history: History) -> None:
    entry = of(history, "lost", "CANCELLED")
    entry.event.type, entry.event.state = "USAGE", "QUEUED"


def resolves_a_need_the_other_way(history: History) -> None:
    history.needs["lost"][0]["state"] = "COMPLETED"


def meets_what_is_not_met(history: History) -> None:
    history.needs["lost"][0]["met"] = True


def is_never_done(history: History) -> None:
    history.left_due.append("the needs of 1 job")


def ends_a_group_before_its_members(history: History) -> None:
    moved(history, "inner", "COMPLETED", len(history.log) - 1)
    moved(history, "group", "PERMANENTLY_FAILED", 30)


def completes_a_group_with_too_many_failures(history: History) -> None:
    of(history, "group", "PERMANENTLY_FAILED").event.type = "COMPLETED"


def fails_a_group_that_tolerates_it(history: History) -> None:
    of(history, "group", "QUEUED").job["group"]["tolerated_failures"] = "2"


def ends_an_open_group(history: History) -> None:
    history.calls = history.calls[:1]


def counts_members_wrong_in_the_end(history: History) -> None:
    of(history, "group", "PERMANENTLY_FAILED").job["members"] |= {"cancelled": "0"}


def counts_tokens_twice_in_the_end(history: History) -> None:
    of(history, "group", "PERMANENTLY_FAILED").job["members"] |= {"tokens": "11"}


def adds_to_a_group_that_is_over(history: History) -> None:
    moved(history, "second", "QUEUED", len(history.log) - 1)


def adds_to_a_closed_group(history: History) -> None:
    history.calls.append(Call("Create", "deep", ANSWERED, invoked=11.95, returned=11.96))


def lets_a_superseded_attempt_create(history: History) -> None:
    of(history, "second", "QUEUED").job["metadata"]["by"] = ["first", 2.0]


def makes_a_member_of_what_is_no_group(history: History) -> None:
    of(history, "deep", "QUEUED").job["group_id"] = "parent"


def tells_progress_all_the_time(history: History) -> None:
    [_, second] = [e for e in history.log if (e.event.job_id, e.event.type) == ("group", "PROGRESS")]
    second.time -= 1_500_000


def lets_a_group_be_retried(history: History) -> None:
    of(history, "group", "FAILED").event.type = "RETRYING"


def leaves_a_group_in_the_queue(history: History) -> None:
    of(history, "inner", "STARTED").event.type = "USAGE"


def deletes_a_member_of_what_runs(history: History) -> None:
    moved(history, "deep", "DELETED", 26)


def never_ends_a_group(history: History) -> None:
    entry = of(history, "ended", "COMPLETED")
    entry.event.type, entry.event.state = "PROGRESS", "PROCESSING"


def never_cancels_the_members(history: History) -> None:
    entry = of(history, "left", "CANCELLED")
    entry.event.type, entry.event.state = "USAGE", "QUEUED"


def hands_out_a_member_of_a_cancelled_group(history: History) -> None:
    entry = of(history, "left", "CANCELLED")
    entry.event.type, entry.job["claimed"], entry.job["lease"] = "STARTED", True, "1s"


def hands_out_a_member_when_too_many_have_failed(history: History) -> None:
    entry = of(history, "second", "CANCELLED")
    entry.event.type, entry.job["claimed"], entry.job["lease"] = "STARTED", True, "1s"


def cancels_members_of_what_goes_on(history: History) -> None:
    moved(history, "second", "CANCELLED", 27)


def cancels_for_another_group(history: History) -> None:
    of(history, "left", "CANCELLED").job["cancel_cause_id"] = "group"


def counts_what_has_not_ended(history: History) -> None:
    of(history, "group", "PROGRESS").job["members"]["completed"] = "1"


def forgets_a_member(history: History) -> None:
    history.rows["group"]["members"]["total"] = "2"


def counts_tokens_of_a_group_twice(history: History) -> None:
    history.rows["group"]["members"]["tokens"] = "11"


def forgets_that_a_group_was_closed(history: History) -> None:
    """One that has not ended."""
    history.log, history.settled = history.log[:26], 0
    history.rows = {"inner": {"members": {"total": "1", "completed": "1", "tokens": "4"}}}


def forgets_that_a_group_is_stopping(history: History) -> None:
    del history.rows["above"]["members"]["stopping"]


BAD: list[tuple[str, Callable[[History], None]]] = [
    ("needs_met", makes_ready_too_early),
    ("needs_met", tells_that_all_is_met_too_early),
    ("needs_met", begins_what_waits),
    ("needs_met", makes_ready_what_can_never_begin),
    ("needs_met", makes_ready_twice),
    ("needs_met", cancels_what_could_begin),
    ("needs_met", tells_another_cause),
    ("needs_met", forgets_at_creation_what_has_ended),
    ("needs_met", forgets_at_creation_what_has_not_ended),
    ("needs_met", leaves_what_can_never_begin),
    ("needs_met", lets_a_job_need_nothing_that_is_there),
    ("needs_met", deletes_what_is_needed),
    ("resolved", lets_a_ready_job_wait_for_ever),
    ("resolved", lets_an_impossible_job_wait_for_ever),
    ("resolved", resolves_a_need_the_other_way),
    ("resolved", meets_what_is_not_met),
    ("resolved", is_never_done),
    ("ends_last", ends_a_group_before_its_members),
    ("ends_last", completes_a_group_with_too_many_failures),
    ("ends_last", fails_a_group_that_tolerates_it),
    ("ends_last", ends_an_open_group),
    ("ends_last", counts_members_wrong_in_the_end),
    ("ends_last", counts_tokens_twice_in_the_end),
    ("ends_last", adds_to_a_group_that_is_over),
    ("ends_last", adds_to_a_closed_group),
    ("ends_last", lets_a_superseded_attempt_create),
    ("ends_last", makes_a_member_of_what_is_no_group),
    ("ends_last", tells_progress_all_the_time),
    ("ends_last", lets_a_group_be_retried),
    ("ends_last", leaves_a_group_in_the_queue),
    ("ends_last", deletes_a_member_of_what_runs),
    ("ends_last", never_ends_a_group),
    ("ends_last", never_cancels_the_members),
    ("stopped", hands_out_a_member_of_a_cancelled_group),
    ("stopped", hands_out_a_member_when_too_many_have_failed),
    ("stopped", cancels_members_of_what_goes_on),
    ("stopped", cancels_for_another_group),
    ("summed", counts_what_has_not_ended),
    ("summed", forgets_a_member),
    ("summed", counts_tokens_of_a_group_twice),
    ("summed", forgets_that_a_group_was_closed),
    ("summed", forgets_that_a_group_is_stopping),
]


def test_a_good_history_breaks_no_promise_about_needs_and_groups() -> None:
    assert broken(good(), RELATIONS) == {}


def test_a_good_history_gives_every_validator_of_needs_and_groups_something_to_look_at() -> None:
    assert [name for name, verdict in validate(good(), RELATIONS).items() if not verdict.checked] == []


@pytest.mark.parametrize(("promise", "break_it"), BAD, ids=[f"{name}-{bad.__name__}" for name, bad in BAD])
def test_a_validator_of_needs_and_groups_goes_red_when_a_server(
    promise: str, break_it: Callable[[History], None]
) -> None:
    history = good()
    break_it(history)

    assert promise in broken(history, RELATIONS)


def test_every_validator_of_needs_and_groups_has_a_bad_history() -> None:
    assert {name for name, _ in BAD} == set(RELATIONS)


def test_what_ended_after_the_last_look_need_not_have_reached_others() -> None:
    history = good()
    lets_a_ready_job_wait_for_ever(history)
    never_ends_a_group(history)
    assert list(broken(history, RELATIONS)) == ["resolved", "ends_last"]

    history.settled = World(history).by_job["other"][-1].event.sequence - 1

    assert broken(history, RELATIONS) == {}
