"""What operators ask for: each validator is green on a good history, and red on one that breaks its promise."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .history import (
    ANSWERED,
    EVENTS,
    SYNCED,
    Bulk,
    BulkAnswer,
    Call,
    Erasing,
    EventRecord,
    History,
    Listing,
    LogEntry,
    Response,
    Stream,
    Watcher,
)
from .loading import load
from .operator_promises import OPERATORS
from .validators import broken, validate
from .written_log import log_time, written_log

INSTANT = "each-minute-1970-01-01T00:01:00Z"

LOG = f"""
    0 old      QUEUED    -          QUEUED     0 -
    1 old      STARTED   QUEUED     PROCESSING 1 w claimed by_hand
    2 old      COMPLETED PROCESSING COMPLETED  1 w claimed by_hand
    3 failed   QUEUED    -          QUEUED     0 -
    4 failed   CANCELLED QUEUED     CANCELLED  0 -
    5 new      QUEUED    -          QUEUED     0 -
    6 batched  QUEUED    -          QUEUED     0 -
    7 new      CANCELLED QUEUED     CANCELLED  0 -
    8 old      DELETED   COMPLETED  COMPLETED  1 -
    9 {INSTANT} QUEUED   -          QUEUED     0 - server
"""
"""One job is recreated by itself and then erased, and one in bulk. What was made by itself is cancelled in bulk."""

LABELS = {"old": "tenant=acme", "new": "tenant=acme", "failed": "batch=1", "batched": "batch=1"}

MADE_FROM = {"new": "old", "batched": "failed"}

HEAD = 10


def entries() -> list[LogEntry]:
    log = written_log(LOG)
    for entry in log:
        job_id, sequence = entry.event.job_id, entry.event.sequence
        label = LABELS.get(job_id)
        entry.event.source_id, entry.event.digest = f"of {label}", sequence * 11
        if label is not None:
            entry.event.labels = (label,)
            entry.job["labels"] = dict([label.split("=")])
        if job_id in MADE_FROM:
            entry.job["recreated_from"] = MADE_FROM[job_id]
        if entry.event.state in {"COMPLETED", "CANCELLED"}:
            entry.job["complete_time"] = log_time(entry.time // 1_000_000)
        if entry.event.type == "CANCELLED" and job_id == "new":
            entry.marker = "mark-1"
        if job_id == "old":
            erase(entry)
    return log


def erase(entry: LogEntry) -> None:
    """Take from an event what it says of its job; of a deletion there is nothing else from the beginning."""
    event = entry.event
    left = EventRecord(
        event.sequence, event.type, event.job_id, event.version, event.state, event.job_type, digest=7, erased=True
    )
    if event.type == "DELETED":
        entry.event = left
    else:
        entry.left = left
    job = {name: entry.job[name] for name in ("id", "job_type")}
    entry.remains = {"sequence": str(event.sequence), "name": "processing-job", "job": job, "erased": True}
    if entry.previous:
        entry.remains["previous_state"] = f"JOB_STATE_{entry.previous}"


def good() -> History:
    """Everything was asked for once, and a watcher by label saw it, in part before and in part after the erasure."""
    log = entries()
    of = {entry.event.sequence: entry for entry in log}
    early = [of[number].event for number in (1, 2, 3, 6)]
    late = [*early[3:], of[8].event, of[9].event]
    left = of[9].event
    streams = [
        Stream("EARLIEST", responses=[Response(EVENTS, "c6", early, at=6.5)], code="LEFT", opened=1.0),
        Stream("CURSOR", "c5", (0, 0), responses=[Response(EVENTS, "c9", late, at=20.0)], code="LEFT", opened=15.0),
    ]
    streams[1].resumed_from = None
    other = Stream("EARLIEST", follow=False, code="OK", opened=15.0)
    other.responses = [Response(EVENTS, "c9", [of[4].event, of[5].event, of[7].event, left]), Response(SYNCED, "c10")]
    return History(
        calls=[
            Call("Cancel", "failed", ANSWERED, invoked=3.2, returned=4.2, version=5, state="CANCELLED"),
            Call("Recreate", "new", ANSWERED, "request-1", "", 1, 5.0, 5.5, "OK", version=6, state="QUEUED"),
            Call("Recreate", "new", ANSWERED, "request-1", "", 1, 6.0, 6.5, "OK", version=6, state="QUEUED"),
        ],
        bulks=[
            Bulk("RecreateMany", "request-2", labels=("batch=1",), is_alone=True, invoked=5.6, returned=6.8),
            Bulk("CancelMany", "request-3", labels=("tenant=acme",), marker="mark-1", invoked=6.9, returned=7.5),
        ],
        erasings=[Erasing(job_id="old", outcome=ANSWERED, code="OK", tries=1, invoked=7.6, returned=8.5, jobs=1)],
        watchers=[
            Watcher("acme", labels=("tenant=acme",), streams=streams),
            Watcher("batch", labels=("batch=1",), streams=[other]),
        ],
        log=log,
        rows={entry.event.job_id: dict(entry.job) for entry in log if entry.event.job_id != "old"},
        listings=[
            Listing({"labels": {"batch": "1"}}, ["failed", "batched"]),
            Listing({"states": ["CANCELLED"]}, ["failed", "new"]),
            Listing({"complete_time_from": log_time(5)}, ["new"]),
            Listing({"complete_time_to": log_time(5)}, ["failed"]),
        ],
        positions={f"c{sequence}": sequence for sequence in range(HEAD + 1)},
    )


def done(history: History) -> History:
    """The same with what was told of the work on many."""
    for call in history.calls:
        call.changes = False
        call.names = ("old",) if call.rpc == "Recreate" else ()
    recreation, cancellation = history.bulks
    recreation.outcome = cancellation.outcome = ANSWERED
    recreation.answers = [BulkAnswer(5.6, 6.0, more=True), BulkAnswer(6.1, 6.8, matched=1, done=1)]
    cancellation.answers = [BulkAnswer(6.9, 7.5, matched=1, done=1)]
    return history


def entry_of(history: History, sequence: int) -> LogEntry:
    return next(entry for entry in history.log if entry.event.sequence == sequence)


def with_another(history: History, sequence: int, **changes: Any) -> LogEntry:
    """Append the same event once more, of a new job."""
    entry = deepcopy(entry_of(history, sequence))
    number = history.log[-1].event.sequence + 1
    entry.event = replace(entry.event, sequence=number, version=number, job_id="another")
    entry.job |= {"id": "another", **changes}
    history.log.append(entry)
    history.rows["another"] = entry.job
    return entry


def recreates_what_has_not_ended(history: History) -> None:
    entry_of(history, 7).job["recreated_from"] = INSTANT


def recreates_what_is_not_there(history: History) -> None:
    entry_of(history, 7).job["recreated_from"] = "nobody"


def changes_the_terms(history: History) -> None:
    entry_of(history, 6).job["lane"] = "other"


def keeps_the_retries(history: History) -> None:
    entry_of(history, 6).job["retry_count"] = 1


def recreates_twice_for_one_request(history: History) -> None:
    with_another(history, 6)


def answers_a_repeat_with_another_job(history: History) -> None:
    with_another(history, 6)
    history.calls[2].job_id, history.calls[2].version = "another", 11


def answers_with_a_job_made_otherwise(history: History) -> None:
    history.calls[1].job_id = history.calls[2].job_id = "batched"


def recreates_a_job_of_a_batch_twice(history: History) -> None:
    with_another(history, 7)
    history.bulks[0].answers[1].matched = history.bulks[0].answers[1].done = 2


def leaves_out_a_job_of_a_batch(history: History) -> None:
    history.log[6] = replace(history.log[6], job={**history.log[6].job, "recreated_from": "nobody"})
    history.bulks[0].answers[1].matched = history.bulks[0].answers[1].done = 0


def counts_more_than_it_does(history: History) -> None:
    history.bulks[0].answers[1].matched = history.bulks[0].answers[1].done = 2


def goes_beyond_the_limit(history: History) -> None:
    history.bulks[1].limit, history.bulks[1].answers[0].done = 1, 2


def goes_on_when_all_is_done(history: History) -> None:
    history.bulks[0].answers.append(BulkAnswer(6.9, 7.0, matched=2, done=2))


def cancels_what_was_not_meant(history: History) -> None:
    history.bulks[1].labels = ("tenant=other",)


def leaves_a_job_that_was_to_be_cancelled(history: History) -> None:
    entry_of(history, 8).marker = ""
    history.bulks[1].answers[0].matched = history.bulks[1].answers[0].done = 0
    history.log[7].event.state = "QUEUED"


def leaves_a_text(history: History) -> None:
    entry_of(history, 3).remains["job"]["result"] = {"text": "all of it"}


def leaves_the_source(history: History) -> None:
    left = entry_of(history, 2).left
    assert left is not None
    left.source_id = "of tenant=acme"


def forgets_the_state(history: History) -> None:
    left = entry_of(history, 3).left
    assert left is not None
    left.state = "QUEUED"


def forgets_the_state_before(history: History) -> None:
    del entry_of(history, 3).remains["previous_state"]


def erases_what_nobody_asked_for(history: History) -> None:
    history.erasings[0].job_id = "failed"


def leaves_an_event_as_it_was(history: History) -> None:
    entry_of(history, 2).left = None


def sends_from_memory_what_was_erased(history: History) -> None:
    stream = Stream("EARLIEST", responses=[Response(EVENTS, "c1", [entry_of(history, 1).event])], code="LEFT")
    stream.opened = 30.0
    history.watchers[0].streams.append(stream)


def creates_an_instant_twice(history: History) -> None:
    entry = with_another(history, 10)
    entry.event.job_id = INSTANT


def lets_somebody_else_create_an_instant(history: History) -> None:
    entry_of(history, 10).actor = ""


def lists_what_has_another_label(history: History) -> None:
    history.listings[0].job_ids.append("new")


def leaves_a_job_out_of_a_list(history: History) -> None:
    history.listings[1].job_ids.pop()


def lists_a_job_twice(history: History) -> None:
    history.listings[1].job_ids.append("new")


def lists_what_ended_too_early(history: History) -> None:
    history.listings[2].job_ids.append("failed")


def sends_what_has_another_label(history: History) -> None:
    history.watchers[1].streams[0].responses[0].events.insert(2, entry_of(history, 6).event)


def leaves_out_what_has_the_label(history: History) -> None:
    del history.watchers[1].streams[0].responses[0].events[1]


def leaves_out_what_was_erased_later(history: History) -> None:
    del history.watchers[0].streams[0].responses[0].events[1]


def tells_nobody_of_an_erased_job(history: History) -> None:
    del history.watchers[1].streams[0].responses[0].events[3]


BAD: list[tuple[str, Callable[[History], None]]] = [
    ("recreated", recreates_what_has_not_ended),
    ("recreated", recreates_what_is_not_there),
    ("recreated", changes_the_terms),
    ("recreated", keeps_the_retries),
    ("recreated", recreates_twice_for_one_request),
    ("recreated", answers_a_repeat_with_another_job),
    ("recreated", answers_with_a_job_made_otherwise),
    ("recreated", recreates_a_job_of_a_batch_twice),
    ("in_bulk", recreates_a_job_of_a_batch_twice),
    ("in_bulk", leaves_out_a_job_of_a_batch),
    ("in_bulk", counts_more_than_it_does),
    ("in_bulk", goes_beyond_the_limit),
    ("in_bulk", goes_on_when_all_is_done),
    ("in_bulk", cancels_what_was_not_meant),
    ("in_bulk", leaves_a_job_that_was_to_be_cancelled),
    ("erased", leaves_a_text),
    ("erased", leaves_the_source),
    ("erased", forgets_the_state),
    ("erased", forgets_the_state_before),
    ("erased", erases_what_nobody_asked_for),
    ("erased", leaves_an_event_as_it_was),
    ("erased", sends_from_memory_what_was_erased),
    ("recurred", creates_an_instant_twice),
    ("recurred", lets_somebody_else_create_an_instant),
    ("found", lists_what_has_another_label),
    ("found", leaves_a_job_out_of_a_list),
    ("found", lists_a_job_twice),
    ("found", lists_what_ended_too_early),
    ("reliable", sends_what_has_another_label),
    ("reliable", leaves_out_what_has_the_label),
    ("reliable", leaves_out_what_was_erased_later),
    ("reliable", tells_nobody_of_an_erased_job),
]

JUDGED = [*OPERATORS, "reliable", "resumable", "bookmarkable", "atomic", "ordered", "unique", "durable", "whole"]


def test_a_good_history_of_what_operators_ask_for_breaks_no_promise() -> None:
    assert broken(done(good()), JUDGED) == {}


def test_a_good_history_gives_every_validator_of_operators_something_to_look_at() -> None:
    assert [name for name, verdict in validate(done(good()), OPERATORS).items() if not verdict.checked] == []


@pytest.mark.parametrize(("promise", "break_it"), BAD, ids=[f"{name}-{bad.__name__}" for name, bad in BAD])
def test_a_validator_of_operators_goes_red_when_a_server(promise: str, break_it: Callable[[History], None]) -> None:
    history = done(good())
    break_it(history)

    assert promise in broken(history, JUDGED)


def test_every_validator_of_operators_has_a_bad_history() -> None:
    assert {name for name, _ in BAD} == {*OPERATORS, "reliable"}


def test_a_history_with_what_operators_ask_for_survives_being_kept(tmp_path: Path) -> None:
    done(good()).save(tmp_path / "history.json")

    assert load(tmp_path / "history.json") == done(good())
