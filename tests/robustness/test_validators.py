"""Each validator is green on a good history, and red on one that breaks its promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .attempts import BESIDE, ITSELF
from .dispatch_promises import DISPATCH
from .history import (
    ANSWERED,
    DRAINING,
    EVENTS,
    HEARTBEAT,
    REFUSED,
    SNAPSHOT,
    SYNCED,
    UNKNOWN,
    Call,
    EventRecord,
    History,
    JobRecord,
    LogEntry,
    MemorySample,
    Response,
    Stream,
    Watcher,
)
from .loading import load
from .operator_promises import OPERATORS
from .relation_promises import RELATIONS
from .validators import VALIDATORS, broken, validate

APART = DISPATCH.keys() | RELATIONS.keys() | OPERATORS.keys()
"""Promises that are broken elsewhere."""

LOG = """
    a QUEUED             -          QUEUED      0
    a STARTED            QUEUED     PROCESSING  1
    b QUEUED             -          QUEUED      0
    a PROGRESS           PROCESSING PROCESSING  1
    a PROGRESS           PROCESSING PROCESSING  1
    a FAILED             PROCESSING FAILED      1
    a RETRYING           FAILED     RETRYING    1
    b CANCELLED          QUEUED     CANCELLED   0
    a STARTED            RETRYING   PROCESSING  2
    a COMPLETED          PROCESSING COMPLETED   2
    c QUEUED             -          QUEUED      0
    d QUEUED             -          QUEUED      0
"""
"""Job, type, state before, state after, attempt; the sequence is the number of the line, from 1."""

HEAD = 12


def entries() -> list[LogEntry]:
    made = []
    for sequence, line in enumerate(LOG.strip().splitlines(), start=1):
        job_id, type_, previous, state, attempt = line.split()
        job: dict[str, Any] = {"id": job_id, "job_type": "type", "state": state, "version": str(sequence)}
        job["ready_time"] = job["create_time"] = f"1970-01-01T00:00:00.{sequence * 10:06}Z"
        if int(attempt) and (type_, previous) != ("STARTED", "RETRYING"):
            # A report claims, so that the second attempt needs no event of its own for that.
            job["claimed"] = True
        if type_ == "PROGRESS":
            job["estimated_tokens"] = "7"
        if job_id == "a" and sequence >= 7:
            job["retry_count"] = 1
        event = EventRecord(sequence, type_, job_id, sequence, state, job_type="type", digest=sequence * 11)
        decision = "WILL_RETRY" if type_ == "FAILED" else ""
        marker = "mark-1" if sequence == 2 else ""
        made.append(LogEntry(event, previous.strip("-"), int(attempt), decision, marker, job, sequence * 10))
    return made


OF = {entry.event.sequence: entry.event for entry in entries()}


def events(*sequences: int) -> Response:
    return Response(EVENTS, f"c{sequences[-1]}", [OF[sequence] for sequence in sequences])


def everything() -> Watcher:
    """Read on from the start, was drained, resumed; and somebody read what came after its first cursor to the end."""
    drained = [
        events(1, 2, 3),
        Response(SYNCED, "c3"),
        events(4, 5, 6, 7, 8),
        Response(HEARTBEAT, "c8"),
        Response(DRAINING, "c8"),
    ]
    return Watcher(
        "everything",
        streams=[
            Stream("EARLIEST", responses=drained, code="UNAVAILABLE", reason="DRAINING"),
            Stream("CURSOR", "c8", (0, 4), responses=[events(9, 10, 11, 12)], code="LEFT"),
            Stream(
                "CURSOR",
                "c3",
                (0, 0),
                follow=False,
                responses=[events(*range(4, 13)), Response(SYNCED, "c12")],
                code="OK",
            ),
        ],
    )


def others() -> list[Watcher]:
    """One who keeps a copy, one of a single job, one who can do without old progress, one who waits for the end."""
    pages = [JobRecord("a", 4, "PROCESSING", "type"), JobRecord("b", 3, "QUEUED", "type")]
    copying = [Response(SNAPSHOT, jobs=pages), Response(SYNCED, "c3"), events(*range(4, 13))]
    waiting = [Response(SYNCED, "c7"), events(8, 9, 10)]
    return [
        Watcher("copy", streams=[Stream("LATEST", snapshot=True, responses=copying, code="LEFT")]),
        Watcher(
            "only-b",
            job_ids=("b",),
            streams=[
                Stream("LATEST", responses=[Response(SYNCED, "c3"), events(8), Response(HEARTBEAT, "c12")], code="LEFT")
            ],
        ),
        Watcher(
            "latest",
            latest_progress=True,
            streams=[
                Stream("CURSOR", "c1", responses=[events(2, 3, 5, 6, 7, 8), Response(SYNCED, "c8")], code="UNAVAILABLE")
            ],
        ),
        Watcher(
            "final",
            streams=[Stream("LATEST", until_final=True, job_ids=("a", "b"), responses=waiting, code="OK")],
        ),
    ]


def good() -> History:
    """Two jobs that lived, two that were made together, and watchers of every kind."""
    log = entries()
    return History(
        calls=[
            Call("Start", "a", ANSWERED, "request-1", "mark-1", 2, 1.0, 2.0, "OK", "", 2, 1, "PROCESSING"),
            Call("Get", "a", ANSWERED, invoked=3.0, version=10, attempt=2, state="COMPLETED", changes=False),
            Call("Cancel", "b", ANSWERED, version=8, state="CANCELLED"),
            Call("Cancel", "a", REFUSED, marker="mark-2", code="FAILED_PRECONDITION", reason="TRANSITION_NOT_ALLOWED"),
            Call("BatchCreate", "", UNKNOWN, job_ids=("c", "d"), changes=False),
            Call("Create", "c", REFUSED, code="ALREADY_EXISTS", reason="JOB_EXISTS", poisoned=BESIDE),
            Call("Create", "", REFUSED, code="INVALID_ARGUMENT", reason="INVALID_FIELD", poisoned=ITSELF),
        ],
        watchers=[everything(), *others()],
        log=log,
        rows={entry.event.job_id: dict(entry.job) for entry in log},
        stored={"type/COMPLETED": 1, "type/CANCELLED": 1, "type/QUEUED": 2},
        totals={"completed": 1, "cancelled": 1, "permanently_failed": 0, "retries": 1, "tokens": 7},
        positions={f"c{sequence}": sequence for sequence in range(HEAD + 1)},
        memory=[MemorySample(1, 1_000), MemorySample(1, 1_400), MemorySample(2, 5_000)],
        memory_growth_max_kib=500,
    )


def stream(history: History, watcher: str, index: int = 0) -> Stream:
    return next(found for found in history.watchers if found.name == watcher).streams[index]


def goes_back(history: History) -> None:
    stream(history, "everything").responses[0].events.reverse()


def sends_twice(history: History) -> None:
    responses = stream(history, "everything").responses
    responses[2].events.insert(0, responses[0].events[2])


def resumes_inclusive(history: History) -> None:
    stream(history, "everything", 1).responses[0].events.insert(0, history.log[7].event)


def leaves_a_gap(history: History) -> None:
    del stream(history, "everything").responses[2].events[1]


def leaves_out_what_nothing_supersedes(history: History) -> None:
    del stream(history, "latest").responses[0].events[2]


def sends_what_was_not_asked_for(history: History) -> None:
    stream(history, "only-b").responses[1].events.insert(0, history.log[5].event)


def sends_what_the_log_has_otherwise(history: History) -> None:
    event = history.log[3].event
    wrong = EventRecord(**{**{name: getattr(event, name) for name in event.__slots__}, "digest": 1})
    stream(history, "copy").responses[2].events[0] = wrong


def has_a_row_without_its_event(history: History) -> None:
    history.rows["a"]["progress"] = 50


def has_events_without_their_row(history: History) -> None:
    del history.rows["d"]


def answers_a_get_from_the_past(history: History) -> None:
    history.calls[1].version = 1


def resumes_too_late(history: History) -> None:
    del stream(history, "everything", 2).responses[0].events[0]


def ends_before_the_end(history: History) -> None:
    del stream(history, "everything", 2).responses[0].events[-1]


def beats_ahead_of_an_event(history: History) -> None:
    stream(history, "only-b").responses.insert(1, Response(HEARTBEAT, "c9"))


def sends_what_a_cursor_had_passed(history: History) -> None:
    stream(history, "copy").responses[1].cursor = "c5"


def grows(history: History) -> None:
    history.memory.append(MemorySample(2, 6_000))


def loses_an_answered_change(history: History) -> None:
    history.calls[2].version = 9


def answers_two_calls_with_one_event(history: History) -> None:
    history.calls.append(history.calls[2].__class__("Cancel", "b", ANSWERED, version=8, state="CANCELLED"))


def loses_what_follows(history: History) -> None:
    history.log[6].event.type = "STARTED"


def jumps_between_states(history: History) -> None:
    history.log[8].previous = "QUEUED"


def has_half_a_batch(history: History) -> None:
    history.calls[4].job_ids = ("c", "e", "d")


def turns_time_back(history: History) -> None:
    history.log[4].time = history.log[3].time - 1


def turns_time_back_for_another_job(history: History) -> None:
    history.log[2].time = history.log[1].time - 1


def does_a_call_twice(history: History) -> None:
    history.log[8].marker = "mark-1"


def does_a_refused_call(history: History) -> None:
    history.log[9].marker = "mark-2"


def hands_out_the_attempt_of_another(history: History) -> None:
    history.log[1].attempt = 2


def uses_a_final_job(history: History) -> None:
    history.log[11] = replace(history.log[9], event=replace(history.log[9].event, sequence=12), previous="COMPLETED")


def miscounts_jobs(history: History) -> None:
    history.stored["type/QUEUED"] = 3


def miscounts_retries(history: History) -> None:
    history.totals["retries"] = 2


def leaves_a_job_out_of_a_snapshot(history: History) -> None:
    del stream(history, "copy").responses[0].jobs[1]
    stream(history, "copy").responses[2].events = stream(history, "copy").responses[2].events[:4]
    stream(history, "copy").responses[2].cursor = "c7"


def ends_before_all_are_final(history: History) -> None:
    responses = stream(history, "final").responses
    responses[1].events.pop()
    responses[1].cursor = "c9"


def drains_without_a_cursor(history: History) -> None:
    stream(history, "everything").responses[-1].cursor = ""


def ends_ok_though_it_was_to_follow(history: History) -> None:
    stream(history, "only-b").code = "OK"


def calls_a_good_cursor_expired(history: History) -> None:
    refused = Stream("CURSOR", "c8", code="OUT_OF_RANGE", reason="CURSOR_EXPIRED", oldest_cursor="c3")
    history.watchers[0].streams.append(refused)


def does_not_know_its_own_cursor(history: History) -> None:
    refused = Stream("CURSOR", "c8", code="FAILED_PRECONDITION", reason="CURSOR_UNKNOWN", oldest_cursor="c3")
    history.watchers[0].streams.append(refused)


def loses_the_file_of_its_store(history: History) -> None:
    last = stream(history, "latest")
    last.code, last.reason = "UNAVAILABLE", "STORE_UNAVAILABLE"


def refuses_without_a_reason(history: History) -> None:
    history.calls[3].code, history.calls[3].reason = "UNKNOWN", ""


def reports_on_what_nobody_claimed(history: History) -> None:
    del history.log[9].job["claimed"]


def claims_twice(history: History) -> None:
    history.log[4].event.type = "CLAIMED"


def counts_waiting_as_work(history: History) -> None:
    times = {"claim_time": "2026-01-01T10:00:00Z", "update_time": "2026-01-01T10:00:30.250Z"}
    history.log[9].job |= {**times, "duration": "1830.250s"}


def counts_a_retry_that_nobody_worked(history: History) -> None:
    history.log[1].job["claimed"] = False


def counts_two_retries_for_one_attempt(history: History) -> None:
    history.log[8].job["retry_count"] = 2


def finds_a_waiting_job_stale(history: History) -> None:
    history.log[1].job["claimed"] = False
    history.log[5].job["last_error"] = {"code": "STALE"}
    del history.log[6].job["retry_count"]


def lets_two_claim_an_attempt(history: History) -> None:
    history.log[3].event.type = "CLAIMED"


def hands_an_attempt_to_another_call(history: History) -> None:
    history.calls.append(Call("Start", "a", ANSWERED, "request-2", version=2, attempt=1, state="PROCESSING", tries=2))


def refuses_who_was_sent_beside_a_poisoned_update(history: History) -> None:
    history.calls[5].reason = "INVALID_FIELD"


def accepts_a_poisoned_update(history: History) -> None:
    history.calls[6].outcome = ANSWERED


BAD: list[tuple[str, Callable[[History], None]]] = [
    ("ordered", goes_back),
    ("unique", sends_twice),
    ("unique", resumes_inclusive),
    ("reliable", leaves_a_gap),
    ("reliable", leaves_out_what_nothing_supersedes),
    ("reliable", sends_what_was_not_asked_for),
    ("atomic", sends_what_the_log_has_otherwise),
    ("atomic", has_a_row_without_its_event),
    ("atomic", has_events_without_their_row),
    ("atomic", answers_a_get_from_the_past),
    ("resumable", resumes_too_late),
    ("resumable", ends_before_the_end),
    ("bookmarkable", beats_ahead_of_an_event),
    ("bookmarkable", sends_what_a_cursor_had_passed),
    ("bounded", grows),
    ("durable", loses_an_answered_change),
    ("durable", answers_two_calls_with_one_event),
    ("whole", loses_what_follows),
    ("whole", jumps_between_states),
    ("whole", has_half_a_batch),
    ("forward", turns_time_back),
    ("forward", turns_time_back_for_another_job),
    ("once", does_a_call_twice),
    ("once", does_a_refused_call),
    ("once", hands_out_the_attempt_of_another),
    ("whole", uses_a_final_job),
    ("tallied", miscounts_jobs),
    ("tallied", miscounts_retries),
    ("consistent", leaves_a_job_out_of_a_snapshot),
    ("until_final", ends_before_all_are_final),
    ("told", drains_without_a_cursor),
    ("told", ends_ok_though_it_was_to_follow),
    ("told", calls_a_good_cursor_expired),
    ("told", does_not_know_its_own_cursor),
    ("told", loses_the_file_of_its_store),
    ("told", refuses_without_a_reason),
    ("claimed", reports_on_what_nobody_claimed),
    ("claimed", claims_twice),
    ("claimed", counts_waiting_as_work),
    ("retried", counts_a_retry_that_nobody_worked),
    ("retried", counts_two_retries_for_one_attempt),
    ("retried", finds_a_waiting_job_stale),
    ("exclusive", lets_two_claim_an_attempt),
    ("exclusive", hands_an_attempt_to_another_call),
    ("innocent", refuses_who_was_sent_beside_a_poisoned_update),
    ("innocent", accepts_a_poisoned_update),
]


def test_a_good_history_breaks_no_promise() -> None:
    assert broken(good()) == {}


def test_a_duration_is_the_time_from_claim_to_end() -> None:
    history = good()
    counts_waiting_as_work(history)
    history.log[9].job["duration"] = "30.250s"

    assert broken(history, ["claimed"]) == {}


def test_a_good_history_gives_every_validator_something_to_look_at() -> None:
    assert [name for name, verdict in validate(good()).items() if not verdict.checked and name not in APART] == []


@pytest.mark.parametrize(("promise", "break_it"), BAD, ids=[f"{name}-{bad.__name__}" for name, bad in BAD])
def test_a_validator_goes_red_when_a_server(promise: str, break_it: Callable[[History], None]) -> None:
    history = good()
    break_it(history)

    assert promise in broken(history)


def test_a_store_that_is_another_process_may_be_gone_for_a_while() -> None:
    history = good()
    history.store = "postgres"
    loses_the_file_of_its_store(history)

    assert broken(history) == {}


def test_replicas_share_no_time_but_that_of_each_job() -> None:
    history = good()
    history.store = "postgres"
    turns_time_back_for_another_job(history)
    assert broken(history) == {}

    turns_time_back(history)

    assert set(broken(history)) == {"forward"}


def test_every_validator_has_a_bad_history() -> None:
    assert {name for name, _ in BAD} == set(VALIDATORS) - APART


def test_a_history_survives_being_kept(tmp_path: Path) -> None:
    good().save(tmp_path / "history.json")

    assert load(tmp_path / "history.json") == good()
