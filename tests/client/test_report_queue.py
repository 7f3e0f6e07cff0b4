"""Reports are merged, sent in order, and sent again when it is unknown whether they arrived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors
from jobstate_client.core import report_queue as module
from jobstate_client.core.attempt_reports import REPORT_INTERVAL_S, AttemptReports, merge, progress_report
from jobstate_client.core.documents import dict_from, struct_from
from jobstate_client.core.limits import DOCUMENT_BYTES_MAX
from jobstate_client.core.report_queue import ReportQueue

LATER = REPORT_INTERVAL_S


class Box:
    """An outbox with a time of its own, and what it has sent."""

    def __init__(self) -> None:
        self.queue = ReportQueue()
        self.now = 0.0
        self.ended: list[str] = []
        self.sent: list[pb.StreamUpdatesRequest] = []

    def reports(self, job_id: str = "job", heartbeat_s: float | None = None) -> AttemptReports:
        reports = AttemptReports(job_id, 1, heartbeat_s, self.now, lambda: self.ended.append(job_id))
        self.queue.add(reports)
        return reports

    def report(
        self, reports: AttemptReports, percent: int | None = None, message: str | None = None, **metadata: Any
    ) -> None:
        reports.add(progress_report(reports, percent, message, metadata, None, None))

    def send(self) -> list[Any]:
        """The updates of the next batch."""
        batch = self.queue.next_batch(self.now)
        if batch is None:
            return []
        self.sent.append(batch)
        return [getattr(update, str(update.WhichOneof("update"))) for update in batch.updates]

    def answer(self, *reasons: str) -> None:
        """Answer the oldest batch: with these refusals, or accept everything."""
        batch = self.sent.pop(0)
        response = pb.StreamUpdatesResponse(batch=batch.batch)
        for index in range(len(batch.updates)):
            outcome = response.outcomes.add(id="job")
            if index < len(reasons) and reasons[index]:
                outcome.refusal.reason = reasons[index]
        self.queue.handle_response(response, self.now)

    def stream_ended(self, error: errors.JobStateError | None = None) -> None:
        self.sent.clear()
        self.now += self.queue.stream_ended(error or errors.Unreachable("gone"), self.now)


@pytest.fixture
def box() -> Box:
    return Box()


def test_reports_that_wait_become_one(box: Box) -> None:
    reports = box.reports()
    box.report(reports, 10, "begun", page=1, old=1)
    box.report(reports, 20)
    box.report(reports, None, "going on", page=2, old=None)

    (update,) = box.send()

    assert (update.id, update.attempt, update.progress, update.message) == ("job", 1, 20, "going on")
    assert dict_from(update.metadata) == {"page": 2, "old": None}
    assert box.send() == []


Reports = st.lists(
    st.tuples(
        st.none() | st.integers(0, 100),
        st.none() | st.text("ab", max_size=2),
        st.dictionaries(st.sampled_from("xyz"), st.none() | st.integers(0, 9) | st.just({"k": {"l": [1]}}), max_size=3),
        st.none() | st.integers(0, 9),
    ),
    min_size=1,
    max_size=6,
)


@given(Reports)
def test_merged_reports_do_what_they_would_have_done_one_by_one(reports: Any) -> None:
    attempt = AttemptReports("job", 1, None, 0.0, lambda: None)
    updates = [
        progress_report(attempt, percent, message, data, tokens, None) for percent, message, data, tokens in reports
    ]
    merged = None
    for update in updates:
        merged = merge(merged, update)
    assert merged is not None

    def last(values: list[Any]) -> Any:
        told = [value for value in values if value is not None]
        return told[-1] if told else None

    assert (merged.progress if merged.HasField("progress") else None) == last([each[0] for each in reports])
    assert (merged.message if merged.HasField("message") else None) == last([each[1] for each in reports])
    together: dict[str, Any] = {}
    for each in reports:
        together |= each[2]
    assert dict_from(merged.metadata) == together
    assert (merged.usage.tokens if merged.HasField("usage") else None) == last([each[3] for each in reports])


def test_reports_of_one_run_keep_their_distance(box: Box) -> None:
    reports = box.reports()
    box.report(reports, 10)
    box.send()
    box.answer()
    box.report(reports, 20)

    assert box.send() == []
    assert box.queue.next_batch_in_s(box.now) == REPORT_INTERVAL_S
    box.now += LATER
    assert [update.progress for update in box.send()] == [20]


def test_no_more_than_two_batches_are_under_way(box: Box) -> None:
    attempts = [box.reports(f"job-{number}") for number in range(3)]
    sent = []
    for reports in attempts:
        box.report(reports, 1)
        sent.append(box.send())

    assert [len(batch) for batch in sent] == [1, 1, 0]
    assert box.queue.next_batch_in_s(box.now) is None
    box.answer()
    assert [update.id for update in box.send()] == ["job-2"]


def test_a_full_batch_leaves_the_rest_for_the_next_and_starves_nobody(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_UPDATES_MAX", 2)
    attempts = [box.reports(f"job-{number}") for number in range(3)]
    for reports in attempts:
        box.report(reports, 1)

    assert [update.id for update in box.send()] == ["job-0", "job-1"]
    box.now += LATER
    for reports in attempts:
        box.report(reports, 2)
    assert [update.id for update in box.send()] == ["job-2", "job-0"]


def test_a_batch_ends_at_its_size(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES_MAX", 100)
    for number in range(3):
        box.report(box.reports(f"job-{number}"), 1, "x" * 60)

    assert len(box.send()) == 2


def test_an_ending_goes_when_all_reports_are_answered(box: Box) -> None:
    reports = box.reports()
    box.report(reports, 10)
    box.send()
    box.report(reports, 20)
    reports.end(pb.CompleteRequest(id="job", attempt=1))

    assert [update.progress for update in box.send()] == [20]
    assert box.send() == []
    box.answer()
    assert box.send() == []
    box.answer()
    (ending,) = box.send()
    assert isinstance(ending, pb.CompleteRequest)
    assert box.ended == []
    box.answer()
    assert (box.ended, reports.end_error) == (["job"], None)
    assert box.send() == []


def test_a_run_that_ends_in_timeouts_ends_at_once(box: Box) -> None:
    reports = box.reports()
    reports.end(pb.FailRequest(id="job", attempt=1))

    assert [type(update) for update in box.send()] == [pb.FailRequest]


def test_what_was_not_answered_is_sent_again_beneath_what_came_later(box: Box) -> None:
    reports = box.reports()
    box.report(reports, 10, "begun", page=1)
    box.send()
    box.now += LATER
    box.report(reports, 20, None, row=2)
    box.send()
    box.report(reports, 30)
    box.stream_ended()
    box.now += LATER

    (update,) = box.send()

    assert (update.progress, update.message) == (30, "begun")
    assert dict_from(update.metadata) == {"page": 1, "row": 2}
    box.answer()
    assert reports.over is None


def test_an_ending_that_was_not_answered_is_sent_again_as_it_was(box: Box) -> None:
    reports = box.reports()
    reports.end(pb.CompleteRequest(id="job", request_id="the-same-1"))
    first = box.send()
    box.stream_ended()

    assert box.send() == first
    box.answer("STORE_UNAVAILABLE")
    assert box.ended == []
    box.now += 10.0
    assert box.send() == first
    box.answer()
    assert box.ended == ["job"]


def test_a_report_that_was_refused_for_now_is_sent_again_before_the_ending(box: Box) -> None:
    reports = box.reports()
    box.report(reports, 10, page=1)
    box.send()
    reports.end(pb.CompleteRequest(id="job"))
    box.answer("STORE_UNAVAILABLE")

    assert box.send() == []
    pause = box.queue.next_batch_in_s(box.now)
    assert pause is not None
    box.now += pause
    assert [type(update) for update in box.send()] == [pb.UpdateProgressRequest]
    box.answer()
    assert [type(update) for update in box.send()] == [pb.CompleteRequest]


@pytest.mark.parametrize(
    "reason", ["ATTEMPT_SUPERSEDED", "TRANSITION_NOT_ALLOWED", "JOB_NOT_FOUND", "ATTEMPT_REQUIRED"]
)
def test_an_attempt_that_is_over_raises_that_and_nothing_more_is_sent_of_it(box: Box, reason: str) -> None:
    reports = box.reports(heartbeat_s=1.0)
    box.report(reports, 10)
    box.send()
    box.answer(reason)
    box.now += 100.0

    with pytest.raises(errors.Refused) as refused:
        box.report(reports, 20)
    assert refused.value.reason == reason
    assert box.send() == []
    assert box.queue.next_batch_in_s(box.now) is None
    reports.end(pb.CompleteRequest(id="job"))
    assert (box.ended, reports.end_error) == (["job"], refused.value)
    assert box.send() == []


def test_an_ending_that_waits_for_a_report_that_is_refused_is_over_with_it(box: Box) -> None:
    reports = box.reports()
    box.report(reports, 10)
    box.send()
    reports.end(pb.CompleteRequest(id="job"))
    box.answer("ATTEMPT_SUPERSEDED")

    assert box.ended == ["job"]
    assert isinstance(reports.end_error, errors.AttemptSuperseded)
    assert box.send() == []


def test_a_rejected_report_raises_its_error_once(box: Box) -> None:
    reports = box.reports()
    box.report(reports, 10)
    box.send()
    box.answer("INVALID_FIELD")

    with pytest.raises(errors.InvalidField):
        box.report(reports, 20)
    box.report(reports, 20)


def test_heartbeats_are_sent_between_reports(box: Box) -> None:
    reports = box.reports(heartbeat_s=30.0)
    box.reports("mute")
    box.now += 29.0
    assert box.send() == []
    assert box.queue.next_batch_in_s(box.now) == 1.0
    box.now += 1.0

    assert box.send() == [pb.UpdateProgressRequest(id="job", attempt=1)]
    box.answer()
    assert box.queue.next_batch_in_s(box.now) == 30.0
    box.report(reports, 10)
    box.now += 20.0
    box.send()
    assert box.queue.next_batch_in_s(box.now) == 30.0


def test_a_stream_that_is_refused_for_what_it_carried_fails_those_whose_reports_it_carried(box: Box) -> None:
    culprit, other = box.reports("culprit"), box.reports("other")
    box.report(culprit, 10)
    box.send()
    box.report(other, 10)
    box.stream_ended(errors.MessageTooLarge("too much"))
    box.now += LATER

    assert [update.id for update in box.send()] == ["other"]
    with pytest.raises(errors.MessageTooLarge):
        box.report(culprit, 20)


def test_waits_between_streams_grow_and_start_again_after_an_answer(box: Box) -> None:
    waits = [box.queue.stream_ended(errors.Unreachable("gone"), box.now) for _ in range(10)]
    reports = box.reports()
    box.report(reports, 10)

    assert waits[0] <= 0.1
    assert 5.0 <= waits[-1] <= 10.0
    assert box.send() == []
    box.now += waits[-1]
    assert len(box.send()) == 1
    box.answer()
    assert box.queue.stream_ended(errors.Unreachable("gone"), box.now) <= 0.1


def test_too_much_metadata_or_result_is_refused_at_once(box: Box) -> None:
    reports = box.reports()
    box.report(reports, 10, a="x" * (DOCUMENT_BYTES_MAX // 2))

    with pytest.raises(errors.InvalidField) as refused:
        box.report(reports, 20, b="x" * (DOCUMENT_BYTES_MAX // 2))
    with pytest.raises(errors.InvalidField):
        reports.end(pb.CompleteRequest(result=struct_from({"a": "x" * DOCUMENT_BYTES_MAX}, "result")))

    assert refused.value.field == "metadata"
    assert [update.progress for update in box.send()] == [10]


Step = Callable[[], object]


@given(st.data())
def test_whatever_breaks_the_last_report_arrives_and_then_the_ending(data: st.DataObject) -> None:
    box = Box()
    reports = box.reports()
    told: dict[str, int] = {}
    applied: dict[str, int] = {}
    endings: list[str] = []

    def send() -> None:
        for update in box.send():
            kept = data.draw(st.booleans(), "applied although the stream breaks")
            if isinstance(update, pb.UpdateProgressRequest):
                waiting.append(dict_from(update.metadata))
                if kept:
                    applied.update(waiting[-1])
            else:
                endings.append(update.request_id)

    waiting: list[dict[str, int]] = []
    for number in range(data.draw(st.integers(1, 8))):
        told[f"key-{number % 3}"] = number
        box.report(reports, number, None, **{f"key-{number % 3}": number})
        match data.draw(st.sampled_from(["send", "break", "answer", "nothing"])):
            case "send":
                send()
            case "break":
                box.stream_ended()
                waiting.clear()
            case "answer" if box.sent:
                box.answer()
                applied.update(waiting.pop(0))
        box.now += LATER
    reports.end(pb.CompleteRequest(id="job", request_id="the-ending"))
    while not box.ended:
        box.now += LATER
        send()
        if box.sent:
            box.answer()
            if waiting:
                applied.update(waiting.pop(0))

    assert applied == told
    assert set(endings) == {"the-ending"}
