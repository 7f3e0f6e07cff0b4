"""Jobs and events that are decoded field by field behave like values that were made at once."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import Detail, Event, Job, NewJob, State
from jobstate_client.core import decoding
from jobstate_client.core.lazy import decode_all
from jobstate_client.core.watch_session import WatchSession

FIELDS = [field.name for field in dataclasses.fields(Job)]


def a_message() -> job_pb2.Job:
    message = job_pb2.Job(id="first", job_type="mine", state=job_pb2.JOB_STATE_FAILED, progress=40, version=3)
    message.create_time.FromSeconds(1_000)
    message.timeout.FromSeconds(5)
    message.metadata.update({"page": 3, "names": ["a"]})
    message.last_error.code = "RATE_LIMITED"
    return message


def made() -> Job:
    """The same job, made by the constructor."""
    job = decoding.job(a_message())
    return Job(**{name: getattr(job, name) for name in FIELDS})


def test_a_decoded_job_equals_one_that_was_made() -> None:
    assert decoding.job(a_message()) == made()
    assert made() == decoding.job(a_message())
    assert repr(decoding.job(a_message())) == repr(made())


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, dataclasses.replace, lambda job: pickle.loads(pickle.dumps(job))],  # noqa: S301
    ids=["copy", "deepcopy", "replace", "pickle"],
)
def test_a_copy_of_a_decoded_job_is_equal(again: Any) -> None:
    job = decoding.job(a_message())
    assert job.state is State.FAILED

    assert again(job) == job == made()


@pytest.mark.parametrize("first", FIELDS)
def test_fields_may_be_read_in_any_order_and_keep_their_values(first: str) -> None:
    job = decoding.job(a_message())
    value = getattr(job, first)
    job.metadata["page"] = 4
    read = {name: getattr(job, name) for name in FIELDS}
    decode_all(job)

    assert read[first] is value
    assert job.metadata is read["metadata"]
    assert job.metadata["page"] == 4


@pytest.mark.parametrize("job", [decoding.job(a_message()), made()], ids=["decoded", "made"])
def test_an_attribute_that_a_job_does_not_have_is_an_attribute_error(job: Job) -> None:
    with pytest.raises(AttributeError, match="'Job' object has no attribute 'colour'"):
        job.colour  # type: ignore[attr-defined]  # noqa: B018
    decode_all(job)
    with pytest.raises(AttributeError, match="'Job' object has no attribute 'colour'"):
        job.colour  # type: ignore[attr-defined]  # noqa: B018


def test_a_decoded_job_is_frozen() -> None:
    job = decoding.job(a_message())

    with pytest.raises(dataclasses.FrozenInstanceError):
        job.progress = 50  # type: ignore[misc]


def test_a_value_that_is_not_lazy_is_left_as_it_is() -> None:
    new = NewJob("mine")
    decode_all(new)

    assert new == NewJob("mine")


def test_threads_may_read_a_job_at_the_same_time() -> None:
    jobs = [decoding.job(a_message()) for _ in range(200)]

    def read(order: int) -> list[dict[str, Any]]:
        names = FIELDS if order % 2 else FIELDS[::-1]
        return [{name: getattr(job, name) for name in names} for job in jobs]

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(read, range(4)):
            assert all(Job(**each) == made() for each in found)


def test_an_event_of_a_watch_does_not_keep_the_whole_response() -> None:
    response = pb.WatchEventsResponse(kind=pb.WATCH_RESPONSE_KIND_EVENTS)
    response.events.add(type=event_pb2.EVENT_TYPE_QUEUED, job=a_message())
    (event,) = WatchSession(pb.WatchEventsRequest(), connect_s=1.0).items(response)
    response.events[0].job.id = "another"

    assert isinstance(event, Event)
    assert event.job.id == "first"


@pytest.mark.parametrize(
    ("kind", "message", "elsewhere"),
    [
        (Job, job_pb2.Job, set()),
        (Event, event_pb2.Event, {each.name for each in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields}),
        (Detail, event_pb2.StartedDetail, set()),
        (Detail, event_pb2.ClaimedDetail, set()),
        (Detail, event_pb2.FailedDetail, set()),
        (Detail, event_pb2.RetryingDetail, set()),
        (Detail, event_pb2.PermanentlyFailedDetail, set()),
        (Detail, event_pb2.CancelledDetail, set()),
        (Detail, event_pb2.ReleasedDetail, set()),
        (Detail, event_pb2.StaleDetectedDetail, set()),
        (Detail, event_pb2.UsageDetail, {"usage"}),
        (Detail, job_pb2.Usage, set()),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else "",
)
def test_every_field_of_the_contract_is_a_field_of_a_value(kind: Any, message: Any, elsewhere: set[str]) -> None:
    fields = {field.name for field in dataclasses.fields(kind)}

    assert {field.name for field in message.DESCRIPTOR.fields} - elsewhere <= fields
