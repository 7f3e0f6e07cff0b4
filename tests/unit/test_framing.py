"""Numbers as the wire has them: varints, tags, times, spans and money, held against protobuf's own."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from jobstate.v1 import event_pb2, job_pb2
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.job import INT64_MAX, NANO, Job, cost_to_nano, saturating_add
from jobstate_server.wire import framing, times
from jobstate_server.wire.jobs import encode_job

TIME_MAX = 253_402_300_799 * SECOND
"""The end of the year 9999, where Timestamp ends."""


@given(st.integers(0, INT64_MAX) | st.integers(0, 2**15) | st.sampled_from([127, 128, 2**14, 2**21, 2**63 - 1]))
def test_a_varint_is_that_of_protobuf(value: int) -> None:
    tag = framing.varint_tag(job_pb2.Job.VERSION_FIELD_NUMBER)
    expected = job_pb2.Job(version=value).SerializeToString()

    assert (tag + framing.varint(value) if value else b"") == expected
    assert job_pb2.Job.FromString(tag + framing.varint(value)).version == value


@given(st.binary(max_size=300))
def test_an_embedded_message_is_that_of_protobuf(content: bytes) -> None:
    text = content.hex()

    assert framing.embed(framing.length_tag(1), text.encode()) == (b"\x0a\x00" if not text else b"") + (
        job_pb2.Job(id=text).SerializeToString()
    )


@pytest.mark.parametrize("field", [1, 15, 16, 27, 2_047, 2_048])
def test_a_tag_is_field_and_wire_type(field: int) -> None:
    assert framing.varint_tag(field) == framing.varint(field * 8)
    assert framing.length_tag(field) == framing.varint(field * 8 + 2)


@given(st.integers(0, TIME_MAX))
def test_a_time_comes_back(time: int) -> None:
    message = Timestamp()
    times.set_time(message, time)

    assert times.time_from(message) == time
    assert message.ToMicroseconds() == time


@given(st.integers(0, 315_576_000_000 * SECOND))
def test_a_span_comes_back(span: int) -> None:
    message = Duration()
    times.set_span(message, span)

    assert times.span_from(message) == span
    assert message.ToMicroseconds() == span


@given(st.integers(0, TIME_MAX) | st.integers(0, TIME_MAX // SECOND).map(lambda seconds: seconds * SECOND))
def test_an_encoded_time_or_span_is_that_of_protobuf(micros: int) -> None:
    moment, span = Timestamp(), Duration()
    times.set_time(moment, micros)
    times.set_span(span, micros)

    assert times.encoded_time(micros) == framing.embed(b"", moment.SerializeToString())
    assert times.encoded_span(micros) == framing.embed(b"", span.SerializeToString())


@given(st.text(max_size=300))
def test_a_text_is_that_of_protobuf(value: str) -> None:
    assert framing.text(framing.length_tag(1), value) == job_pb2.Job(id=value).SerializeToString()


@given(st.floats(allow_nan=False).filter(bool))
def test_a_floating_point_field_is_that_of_protobuf(value: float) -> None:
    tag = framing.double_tag(job_pb2.Job.ESTIMATED_COST_FIELD_NUMBER)

    assert tag + framing.double(value) == job_pb2.Job(estimated_cost=value).SerializeToString()


def test_a_time_of_zero_is_set_all_the_same() -> None:
    message = event_pb2.Event()
    times.set_time(message.time, 0)
    times.set_span(message.retrying.delay, 0)

    assert message.HasField("time")
    assert message.retrying.HasField("delay")


@given(st.integers(0, 253_402_300_799), st.integers(0, 999_999_999))
def test_a_time_finer_than_microseconds_is_rounded_up(seconds: int, nanos: int) -> None:
    assert times.time_from(Timestamp(seconds=seconds, nanos=nanos)) == seconds * SECOND + -(-nanos // 1_000)


@given(st.integers(0, 10**9), st.integers(0, 999_999_999))
def test_a_span_finer_than_microseconds_is_rounded_up(seconds: int, nanos: int) -> None:
    assert times.span_from(Duration(seconds=seconds, nanos=nanos)) == seconds * SECOND + -(-nanos // 1_000)


@pytest.mark.parametrize(
    ("seconds", "nanos", "span"),
    [
        (0, -1_999, -1),
        (-1, -999_999_999, -1_999_999),
        pytest.param(
            *(-17_592_187, -15_624_999, -17_592_187_015_624),
        ),
    ],
)
def test_a_negative_span_is_rounded_toward_zero(seconds: int, nanos: int, span: int) -> None:
    assert times.span_from(Duration(seconds=seconds, nanos=nanos)) == span


@given(st.floats(0, 1e9))
def test_money_is_rounded_once_to_the_nearest_billionth(cost: float) -> None:
    assert abs(cost_to_nano(cost) - cost * NANO) <= 0.5 + cost * NANO * 2**-52


@given(st.integers(0, 10**15))
def test_money_comes_back_from_the_wire_unchanged(nano: int) -> None:
    job = Job(id="job", job_type="t", estimated_cost_nano=nano)

    message = job_pb2.Job.FromString(encode_job(job))

    assert cost_to_nano(message.estimated_cost) == nano


@given(st.integers(0, INT64_MAX), st.integers(-INT64_MAX, INT64_MAX))
def test_a_sum_stays_within_what_stores_and_wire_can_hold(total: int, amount: int) -> None:
    assert saturating_add(total, amount) == min(max(total + amount, 0), INT64_MAX)
