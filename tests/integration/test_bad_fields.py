"""Every field out of bounds is named in the refusal, all of them at once; and nothing is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb

from ..support.calls import ask, create, micros, refused, report, span, start, struct
from ..support.server import Running, rows
from .support import JOB_RPCS, REPORTS, on_shared

BAD_IDS = {
    "empty": "",
    "overlong": "a" * 129,
    "with a space": "a b",
    "with a slash": "a/b",
    "with a newline": "job\n",
    "with NUL": "a\0b",
    "not ASCII": "jöb",
    "beginning with a dot": ".job",
    "beginning with a dash": "-job",
}

BAD_USAGE: dict[str, tuple[job_pb2.Usage, str]] = {
    "NaN cost": (job_pb2.Usage(cost=math.nan), "usage.cost"),
    "infinite cost": (job_pb2.Usage(cost=math.inf), "usage.cost"),
    "negatively infinite cost": (job_pb2.Usage(cost=-math.inf), "usage.cost"),
    "negative cost": (job_pb2.Usage(cost=-0.001), "usage.cost"),
    "cost over 10^9": (job_pb2.Usage(cost=1_000_000_001.0), "usage.cost"),
    "negative tokens": (job_pb2.Usage(tokens=-1), "usage.tokens"),
    "absurd tokens": (job_pb2.Usage(tokens=2**62), "usage.tokens"),
}

HUGE = struct(blob="x" * (64 * 1024))

NOT_FINITE = struct(deep={"list": [1, {"number": math.nan}]})

NO_STATE = job_pb2.JobState.ValueType(99)

NO_TYPE = event_pb2.EventType.ValueType(99)


def nested(levels: int) -> Struct:
    """A Struct of as many levels of objects, the innermost empty."""
    made = inner = Struct()
    for _ in range(levels - 1):
        inner = inner.fields["a"].struct_value
        inner.SetInParent()
    return made


def bad(name: str, rpc: str, request: Message, field: str) -> Any:
    """A bad request, and the field that its refusal names."""
    return pytest.param(rpc, request, field, id=f"{rpc}: {name}")


def _bad_ids() -> Iterator[Any]:
    for name, job_id in BAD_IDS.items():
        for rpc, kind in JOB_RPCS.items():
            yield bad(f"id {name}", rpc, kind(id=job_id), "id")
        if job_id:
            yield bad(f"id {name}", "Create", pb.CreateRequest(id=job_id, job_type="default"), "id")
        yield bad(f"job type {name}", "Create", pb.CreateRequest(job_type=job_id), "job_type")
        yield bad(f"id {name}", "WatchEvents", pb.WatchEventsRequest(job_ids=["job", job_id]), "job_ids[1]")


def _bad_reports() -> Iterator[Any]:
    for name, (usage, field) in BAD_USAGE.items():
        for rpc, kind in REPORTS.items():
            yield bad(name, rpc, kind(id="job", usage=usage), field)
    for number in (0, -1):
        for rpc, kind in REPORTS.items():
            yield bad(f"attempt {number}", rpc, kind(id="job", attempt=number), "attempt")
    for name, request_id in {
        "short": "1234567",
        "overlong": "x" * 129,
        "spaced": "12345 678",
        "odd": "1234567é",
    }.items():
        for rpc in ("Start", "Complete", "Fail", "Retry", "Cancel"):
            yield bad(f"request_id {name}", rpc, JOB_RPCS[rpc](id="job", request_id=request_id), "request_id")
        yield bad(f"request_id {name}", "Create", pb.CreateRequest(job_type="t", request_id=request_id), "request_id")


def _bad_creates() -> Iterator[Any]:
    given: dict[str, Any]
    for name, field, given in (
        ("overlong job type", "job_type", {"job_type": "t" * 65}),
        ("overlong source_id", "source_id", {"source_id": "é" * 129}),
        ("source_id with NUL", "source_id", {"source_id": "a\0"}),
        ("max_retries -1", "max_retries", {"max_retries": -1}),
        ("max_retries 1001", "max_retries", {"max_retries": 1_001}),
        ("negative timeout", "timeout", {"timeout": span(-1)}),
        ("timeout over 30 days", "timeout", {"timeout": span(30 * 86_400 + 1)}),
        ("timeout 1 ns over 30 days", "timeout", {"timeout": Duration(seconds=30 * 86_400, nanos=1)}),
        ("timeout of -1 ns", "timeout", {"timeout": Duration(nanos=-1)}),
        ("timeout of two signs", "timeout", {"timeout": Duration(seconds=5, nanos=-500_000_000)}),
        ("timeout of two signs, less than nothing", "timeout", {"timeout": Duration(seconds=-1, nanos=1)}),
        ("timeout of a whole second in nanos", "timeout", {"timeout": Duration(nanos=1_000_000_000)}),
        ("timeout beyond all", "timeout", {"timeout": Duration(seconds=2**63 - 1, nanos=999_999_999)}),
        ("timeout before all", "timeout", {"timeout": Duration(seconds=-(2**63), nanos=-999_999_999)}),
        ("metadata of 17 levels", "metadata", {"metadata": nested(17)}),
        ("metadata over the limit", "metadata", {"metadata": HUGE}),
        ("NaN in metadata", "metadata.deep.list[1].number", {"metadata": NOT_FINITE}),
        ("infinity in metadata", "metadata.a", {"metadata": struct(a=math.inf)}),
    ):
        yield bad(name, "Create", pb.CreateRequest(**({"job_type": "default"} | given)), field)


def _bad_changes() -> Iterator[Any]:
    given: dict[str, Any]
    for number in (-1, 101, 2**31 - 1):
        yield bad(
            f"progress {number}", "UpdateProgress", pb.UpdateProgressRequest(id="job", progress=number), "progress"
        )
    for name, field, given in (
        ("overlong message", "message", {"message": "é" * 2_049}),
        ("message with NUL", "message", {"message": "\0"}),
        ("metadata over the limit", "metadata", {"metadata": HUGE}),
        ("NaN in metadata", "metadata.deep.list[1].number", {"metadata": NOT_FINITE}),
    ):
        yield bad(name, "UpdateProgress", pb.UpdateProgressRequest(id="job", **given), field)

    yield bad("negative result_count", "Complete", pb.CompleteRequest(id="job", result_count=-1), "result_count")
    yield bad("result over the limit", "Complete", pb.CompleteRequest(id="job", result=HUGE), "result")
    yield bad("infinity in result", "Complete", pb.CompleteRequest(id="job", result=struct(a=-math.inf)), "result.a")

    for name, field, error in (
        ("overlong code", "error.code", pb.FailureReport(code="c" * 129)),
        ("overlong message", "error.message", pb.FailureReport(message="m" * 4_097)),
        ("details over the limit", "error.details", pb.FailureReport(details=struct(blob="x" * 8_192))),
        ("NaN in details", "error.details.a", pb.FailureReport(details=struct(a=math.nan))),
    ):
        yield bad(name, "Fail", pb.FailRequest(id="job", error=error), field)
    for name, given in (
        ("negative retry_delay", {"retry_delay": span(-0.5)}),
        ("retry_delay of -1 ns", {"retry_delay": Duration(nanos=-1)}),
        ("retry_delay of two signs", {"retry_delay": Duration(seconds=5, nanos=-1)}),
        ("retry_delay over 7 days", {"retry_delay": span(7 * 86_400 + 1)}),
        ("retry_delay 1 ns over 7 days", {"retry_delay": Duration(seconds=7 * 86_400, nanos=1)}),
        ("retry_delay of a permanent failure", {"retry_delay": span(1), "retryable": False}),
    ):
        yield bad(name, "Fail", pb.FailRequest(id="job", **given), "retry_delay")

    yield bad("overlong worker", "Start", pb.StartRequest(id="job", worker="w" * 129), "worker")
    yield bad("overlong reason", "Cancel", pb.CancelRequest(id="job", reason="r" * 4_097), "reason")


def _bad_questions() -> Iterator[Any]:
    filters: dict[str, Any]
    watch: dict[str, Any]
    for name, field, filters in (
        ("page size -5", "page_size", {"page_size": -5}),
        ("unknown state", "states[1]", {"states": [job_pb2.JOB_STATE_QUEUED, NO_STATE]}),
        ("unspecified state", "states[0]", {"states": [job_pb2.JOB_STATE_UNSPECIFIED]}),
        ("unknown order", "order", {"order": pb.ListOrder.ValueType(99)}),
        ("too many states", "states", {"states": [job_pb2.JOB_STATE_QUEUED] * 101}),
        ("too many job types", "job_types", {"job_types": ["t"] * 101}),
        ("odd job type", "job_types[0]", {"job_types": ["a b"]}),
        ("overlong source_id", "source_id", {"source_id": "s" * 257}),
        ("impossible time", "create_time_from", {"create_time_from": Timestamp(seconds=2**60)}),
        ("impossible nanos", "create_time_to", {"create_time_to": Timestamp(nanos=-1)}),
    ):
        yield bad(name, "List", pb.ListRequest(**filters), field)

    for name, field, watch in (
        ("unknown type", "types[0]", {"types": [NO_TYPE]}),
        ("unspecified type", "types[0]", {"types": [event_pb2.EVENT_TYPE_UNSPECIFIED]}),
        ("unknown start", "start", {"start": pb.WatchStart.ValueType(99)}),
        ("unknown progress", "progress", {"progress": pb.WatchProgress.ValueType(99)}),
        ("empty cursor", "cursor", {"cursor": ""}),
        ("too many jobs", "job_ids", {"job_ids": ["job"] * 1_001}),
        ("too many sources", "source_ids", {"source_ids": ["s"] * 101}),
        ("snapshot from the earliest event", "snapshot", {"snapshot": True, "start": pb.WATCH_START_EARLIEST}),
        ("until_final of all jobs", "until_final", {"until_final": True}),
        ("until_final not followed", "until_final", {"until_final": True, "job_ids": ["job"], "follow": False}),
        ("negative heartbeat", "heartbeat_interval", {"heartbeat_interval": span(-1)}),
        ("heartbeat of -1 ns", "heartbeat_interval", {"heartbeat_interval": Duration(nanos=-1)}),
        ("heartbeat of two signs", "heartbeat_interval", {"heartbeat_interval": Duration(seconds=5, nanos=-1)}),
    ):
        yield bad(name, "WatchEvents", pb.WatchEventsRequest(**watch), field)

    yield bad("odd job type", "GetStats", pb.GetStatsRequest(job_types=["default", "a b"]), "job_types[1]")


def _bad_batches() -> Iterator[Any]:
    yield bad("empty batch", "BatchCreate", pb.BatchCreateRequest(), "requests")
    one = pb.CreateRequest(job_type="default")
    yield bad("overlong batch", "BatchCreate", pb.BatchCreateRequest(requests=[one] * 1_001), "requests")
    for name, field, create_request in (
        ("id of an item", "requests[1].id", pb.CreateRequest(id="a b", job_type="default")),
        ("job type of an item", "requests[1].job_type", pb.CreateRequest()),
        ("metadata of an item", "requests[1].metadata", pb.CreateRequest(job_type="default", metadata=HUGE)),
        ("request_id of an item", "requests[1].request_id", pb.CreateRequest(job_type="default", request_id="short")),
    ):
        yield bad(name, "BatchCreate", pb.BatchCreateRequest(requests=[one, create_request]), field)


def _bad_cleanups() -> Iterator[Any]:
    for name, age, force in (
        ("below an hour", span(3_599), False),
        ("1 ns below an hour", Duration(seconds=3_599, nanos=999_999_999), False),
        ("negative", span(-1), False),
        ("negative by force", Duration(nanos=-1), True),
        ("1 ns over ten years", Duration(seconds=3_650 * 86_400, nanos=1), True),
    ):
        yield bad(f"older_than {name}", "Cleanup", mpb.CleanupRequest(older_than=age, force=force), "older_than")


BAD_REQUESTS = [
    *_bad_ids(),
    *_bad_reports(),
    *_bad_creates(),
    *_bad_changes(),
    *_bad_questions(),
    *_bad_batches(),
    *_bad_cleanups(),
]


@pytest.mark.parametrize(("rpc", "request_", "field"), BAD_REQUESTS)
@on_shared
async def test_a_bad_field_is_named_and_nothing_is_stored(
    stored: Running, rpc: str, request_: Message, field: str
) -> None:
    refusal = await refused(ask(stored, rpc, request_))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata.pop("field") == field
    # What is too large tells how large it is, and how large it may be; nothing else is told.
    assert int(refusal.metadata.pop("size", "1")) > int(refusal.metadata.pop("size_max", "0"))
    assert refusal.metadata == {}
    assert refusal.fields == [field]
    assert refusal.message.startswith(f"{field}: ")
    assert all(violation.description for violation in refusal.detail(error_details_pb2.BadRequest).field_violations)


@on_shared
async def test_every_bad_field_of_a_request_is_named_at_once(stored: Running) -> None:
    request = pb.UpdateProgressRequest(
        id="", progress=101, message="m" * 4_097, usage=job_pb2.Usage(tokens=-1, cost=math.nan), attempt=0
    )

    refusal = await refused(stored.jobs.UpdateProgress(request))

    assert set(refusal.fields) == {"id", "progress", "message", "usage.tokens", "usage.cost", "attempt"}


@pytest.mark.parametrize(
    ("rpc", "request_", "fields"),
    [
        (
            "UpdateProgress",
            pb.UpdateProgressRequest(id="job", progress=101, message="\0", metadata=NOT_FINITE),
            {"progress", "message", "metadata.deep.list[1].number"},
        ),
        (
            "Create",
            pb.CreateRequest(job_type="", source_id="\0", timeout=Duration(nanos=-1), metadata=HUGE),
            {"job_type", "source_id", "timeout", "metadata"},
        ),
        (
            "Complete",
            pb.CompleteRequest(id="job", result_count=-1, result=NOT_FINITE),
            {"result_count", "result.deep.list[1].number"},
        ),
        (
            "Fail",
            pb.FailRequest(
                id="job", retry_delay=span(-1), error=pb.FailureReport(code="c" * 129, details=struct(a=math.nan))
            ),
            {"retry_delay", "error.code", "error.details.a"},
        ),
        (
            "BatchCreate",
            pb.BatchCreateRequest(
                requests=[
                    pb.CreateRequest(job_type="default", metadata=HUGE),
                    pb.CreateRequest(job_type=""),
                    pb.CreateRequest(job_type="default", metadata=struct(a=math.nan, b=math.inf)),
                ]
            ),
            {"requests[0].metadata", "requests[1].job_type", "requests[2].metadata.a", "requests[2].metadata.b"},
        ),
        (
            "BatchCreate",
            pb.BatchCreateRequest(
                requests=[
                    pb.CreateRequest(job_type="default", metadata=HUGE),
                    pb.CreateRequest(job_type="default"),
                    pb.CreateRequest(job_type="default", metadata=struct(a=math.nan)),
                ]
            ),
            {"requests[0].metadata", "requests[2].metadata.a"},
        ),
        (
            "List",
            pb.ListRequest(page_size=-1, source_id="\0", page_token="no token"),
            {"page_size", "source_id", "page_token"},
        ),
    ],
)
@on_shared
async def test_free_json_and_tokens_are_judged_together_with_the_other_fields(
    stored: Running, rpc: str, request_: Message, fields: set[str]
) -> None:
    refusal = await refused(ask(stored, rpc, request_))

    assert set(refusal.fields) == fields


async def test_what_is_less_than_a_microsecond_is_not_nothing(running: Running) -> None:
    for nanos in (1, 999):
        job = await create(running, f"job-{nanos}", timeout=Duration(nanos=nanos))
        assert micros(job.timeout) == 1
    assert not (await create(running, "none", timeout=Duration())).HasField("timeout")


async def test_a_bound_of_time_between_two_microseconds_keeps_jobs_on_its_two_sides(running: Running) -> None:
    time = (await create(running)).create_time
    later = Timestamp(seconds=time.seconds, nanos=time.nanos + 1)

    async def listed(**bounds: Any) -> int:
        return len((await running.jobs.List(pb.ListRequest(**bounds))).jobs)

    assert (await listed(create_time_to=time), await listed(create_time_to=later)) == (0, 1)
    assert (await listed(create_time_from=time), await listed(create_time_from=later)) == (1, 0)


async def test_metadata_that_only_merging_takes_over_the_limit_is_refused(running: Running) -> None:
    await create(running, metadata=struct(a="x" * 40_000))
    await start(running)
    before = rows(running.path)

    refusal = await refused(report(running, metadata=struct(b="x" * 40_000)))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata["field"] == "metadata"
    assert int(refusal.metadata["size"]) > int(refusal.metadata["size_max"]) == 65_536
    assert rows(running.path) == before
    # What replaces instead of adding fits.
    assert (await report(running, metadata=struct(a="x" * 60_000))).metadata["a"] == "x" * 60_000
